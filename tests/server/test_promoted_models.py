"""What is given out, what its card says, and what is refused; through the command, too."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from scored_rounds import RoundScores, scored_state
from typer.testing import CliRunner

from common.errors import CheckpointError, ReleaseError, SettingsError
from common.plan import FederationPlan
from common.released_models import read_record
from server.checkpoints import save_state
from server.cli import app
from server.promoted_models import ModelCard, promote
from server.run_folder import RunFolder

MakePlan = Callable[..., FederationPlan]


def _run(path: Path, plan: FederationPlan, *scores: RoundScores) -> RunFolder:
    """A run of which every round was saved as a server does, the last one not scored yet."""
    folder = RunFolder(path)
    folder.keep_plan(plan)
    for number in range(len(scores) + 1):
        save_state(folder.checkpoints, scored_state(plan, scores[:number], closed=False), plan)
    return folder


def _close(folder: RunFolder, *scores: RoundScores) -> None:
    plan = folder.read_plan()
    save_state(folder.checkpoints, scored_state(plan, scores), plan)


def _north(*dice: float) -> tuple[RoundScores, ...]:
    return tuple({"north": {"task1": one}} for one in dice)


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """One stage of six rounds; nobody may lose more than 0.25."""
    return make_plan((6,), release={"most_loss": 0.25})


def test_the_newest_promoted_round_and_why_no_later_one(
    tmp_path: Path, plan: FederationPlan
) -> None:
    # Rounds 1 to 4 were scored, round 5 was not; rounds 3 and 4 cost north too much.
    folder = _run(tmp_path, plan, *_north(0.75, 1.0, 0.25, 0.5))
    done = promote(folder, None, despite_losses=False)
    assert done.is_new
    assert done.folder == tmp_path / "promoted" / "round-00002"
    kept = folder.checkpoints / "round-00002" / "models.safetensors"
    assert (done.folder / "models.safetensors").read_bytes() == kept.read_bytes()
    models = load_file(done.folder / "models.safetensors")
    np.testing.assert_array_equal(models["segmenter/a"], np.full(3, 2, np.float32))
    card = ModelCard.model_validate_json((done.folder / "card.json").read_text())
    assert card == done.card
    record = read_record(done.folder)
    assert (record.federation, record.round, record.plan) == (plan.federation, 2, plan)
    assert record.models_sha256 == hashlib.sha256(kept.read_bytes()).hexdigest()
    assert (card.round, card.federation, card.plan) == (2, plan.federation, plan)
    assert (card.despite, card.losses, card.unheard, card.left_out) == ("", (), (), ())
    (score,) = card.scores["north"]
    assert (score.task, score.dice, score.cases) == ("task1", {"organ": 1.0}, 10)
    assert list(card.not_later) == [3, 4, 5]
    assert card.not_later[3].startswith("north lost 0.750 on task1 (1.000 in round 2, now 0.250")
    assert card.not_later[5] == "not scored yet: its scores come with round 6"


def test_the_promoted_round_outlives_every_later_one(tmp_path: Path, plan: FederationPlan) -> None:
    folder = _run(tmp_path, plan, *_north(0.75, 1.0, 0.25, 0.5, 0.25))
    # Without the gate the last two, 5 and 6, would be all.
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == ["round-00002", "round-00005", "round-00006"]
    _close(folder, *_north(0.75, 1.0, 0.25, 0.5, 0.25, 0.875))
    assert promote(folder, None, despite_losses=False).card.round == 6
    # Round 2 is not needed any more.
    kept = sorted(path.name for path in folder.checkpoints.iterdir())
    assert kept == ["round-00005", "round-00006"]


def test_without_a_limit_the_newest_round_is_given_out_before_it_is_scored(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    folder = _run(tmp_path, make_plan((6,)), *_north(0.75, 0.0))
    card = promote(folder, None, despite_losses=False).card
    assert (card.round, card.scores, card.losses, card.not_later) == (3, {}, (), {})


def test_the_card_tells_of_losses_that_the_gate_lets_pass(
    tmp_path: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path, plan, *_north(0.75, 0.625))
    (row,) = promote(folder, 2, despite_losses=False).card.losses
    assert (row.round, row.loss, row.best_round) == (2, 0.125, 1)


def test_a_refused_round_needs_a_word_and_the_card_keeps_it(
    tmp_path: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path, plan, *_north(1.0, 0.25))
    with pytest.raises(ReleaseError, match="round 2 may not be promoted: north lost 0"):
        promote(folder, 2, despite_losses=False)
    with pytest.raises(ReleaseError, match="round 3 may not be promoted: not scored yet"):
        promote(folder, 3, despite_losses=False)
    assert not folder.promoted.exists()
    card = promote(folder, 2, despite_losses=True).card
    assert card.despite.startswith("north lost 0.750 on task1")
    # The word is for the round that it names.
    assert promote(folder, None, despite_losses=True).card.round == 1


def test_a_run_of_which_no_round_passes_says_what_to_do(
    tmp_path: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path, plan, {"north": {}})
    message = r"no round may be promoted\. Round 2: not scored yet.*--round 2 --despite-losses"
    with pytest.raises(ReleaseError, match=message):
        promote(folder, None, despite_losses=False)


def test_a_round_that_was_given_out_keeps_its_first_card(
    tmp_path: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path, plan, *_north(0.75))
    first = promote(folder, 2, despite_losses=True)
    assert first.card.despite
    _close(folder, *_north(0.75, 1.0))
    again = promote(folder, 2, despite_losses=False)
    assert (again.is_new, again.card) == (False, first.card)


def test_a_release_of_a_version_without_records_gets_one(
    tmp_path: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path, plan, *_north(0.75, 0.75, 0.75))
    first = promote(folder, 3, despite_losses=False)
    before = read_record(first.folder)
    (first.folder / "release.json").unlink()
    shutil.rmtree(folder.checkpoints / "round-00003")
    again = promote(folder, 3, despite_losses=False)
    assert (again.is_new, again.card) == (False, first.card)
    assert read_record(first.folder) == before


def test_models_without_a_card_were_not_given_out(tmp_path: Path, plan: FederationPlan) -> None:
    folder = _run(tmp_path, plan, *_north(0.75))
    done = promote(folder, None, despite_losses=False)
    (done.folder / "card.json").unlink()
    (done.folder / "models.safetensors").write_bytes(b"half")
    assert promote(folder, None, despite_losses=False).is_new
    assert load_file(done.folder / "models.safetensors").keys() == {"segmenter/a", "student/b"}


@pytest.mark.parametrize("number", [0, -1, 4, 99])
def test_a_round_that_there_is_not(tmp_path: Path, plan: FederationPlan, number: int) -> None:
    folder = _run(tmp_path, plan, *_north(0.75, 0.75))
    with pytest.raises(CheckpointError, match=f"expected a round from 1 to 3, got {number}"):
        promote(folder, number, despite_losses=True)


def test_a_round_that_is_not_kept(tmp_path: Path, plan: FederationPlan) -> None:
    folder = _run(tmp_path, plan, *_north(0.75, 0.75, 0.75))
    with pytest.raises(CheckpointError, match=r"round 1 is not kept any more; kept are \[3, 4\]"):
        promote(folder, 1, despite_losses=False)


def test_a_round_of_self_learning_is_never_given_out(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(
        (3,), correspondence={"rounds": 2}, propagation={"candidates": ["correspondence"]}
    )
    folder = RunFolder(tmp_path)
    folder.keep_plan(plan)
    save_state(folder.checkpoints, scored_state(plan, _north(0.5)), plan)
    with pytest.raises(CheckpointError, match="round 1 is saved; the segmenter trains from 3"):
        promote(folder, 1, despite_losses=True)
    save_state(folder.checkpoints, scored_state(plan, _north(0.5, 0.5, 0.5)), plan)
    with pytest.raises(CheckpointError, match="expected a round from 3 to 3, got 2"):
        promote(folder, 2, despite_losses=True)


def test_damaged_models_are_not_given_out(tmp_path: Path, plan: FederationPlan) -> None:
    folder = _run(tmp_path, plan, *_north(0.75))
    path = folder.checkpoints / "round-00001" / "models.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(CheckpointError, match=r"round-00001/models\.safetensors cannot be read"):
        promote(folder, None, despite_losses=False)
    assert not folder.promoted.exists()


def test_nothing_saved_is_said_so(tmp_path: Path, plan: FederationPlan) -> None:
    folder = RunFolder(tmp_path)
    folder.keep_plan(plan)
    with pytest.raises(CheckpointError, match="no round is saved yet"):
        promote(folder, None, despite_losses=False)


def test_a_folder_that_may_not_be_written_is_our_error(
    tmp_path: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path, plan, *_north(0.75))
    folder.promoted.write_text("a file")
    with pytest.raises(CheckpointError, match="round-00001 cannot be written"):
        promote(folder, None, despite_losses=False)


def _invoke(*arguments: str) -> str:
    done = CliRunner().invoke(app, ["promote", *arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_takes_a_runs_folder(tmp_path: Path, plan: FederationPlan) -> None:
    folder = _run(tmp_path, plan, *_north(1.0, 0.25))
    told = _invoke(str(tmp_path))
    assert f"{plan.federation}: round 1 is promoted: {folder.promoted / 'round-00001'}\n" in told
    assert "  round 2 is not: north lost 0.750" in told
    assert "round 1 was promoted before, 2" in _invoke(str(tmp_path))
    with pytest.raises(ReleaseError, match="round 2 may not be promoted"):
        _invoke(str(tmp_path), "--round", "2")
    told = _invoke(str(tmp_path), "--round", "2", "--despite-losses", "--format", "json")
    found = json.loads(told)
    assert (found["card"]["round"], found["is_new"]) == (2, True)
    assert found["folder"] == str(folder.promoted / "round-00002")
    assert found["card"]["despite"].startswith("north lost")


def test_the_command_takes_a_federations_name(
    tmp_path: Path, plan: FederationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    CliRunner().invoke(app, ["init", "--name", "north", "--address", "127.0.0.1"])
    _run(tmp_path / "consortium" / "runs" / "first", plan, *_north(1.0))
    assert "round 1 is promoted" in _invoke("first")
    with pytest.raises(SettingsError, match="no federation is called 'second'; there are: first"):
        _invoke("second")


def test_many_reasons_are_cut_short_on_the_screen(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan((9,), release={"most_loss": 0.25})
    _run(tmp_path, plan, *_north(1.0, *[0.25] * 6))
    told = _invoke(str(tmp_path))
    assert told.count("is not: ") == 5
    assert "  and 2 more such, see card.json" in told
