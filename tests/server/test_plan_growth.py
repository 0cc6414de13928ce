"""A federation that goes on from an earlier one: its rounds, its models, and nothing else of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
from fake_hospitals import SCANS, FakeHospitals
from same_states import same_arrays
from typer.testing import CliRunner

from common.errors import CheckpointError, SettingsError
from common.networks.grow import grow_arrays
from common.plan import FederationPlan
from common.updates import decode_request, decode_update, encode_request, encode_update
from server.checkpoints import load_state, read_state, save_state
from server.cli import app
from server.plan_growth import begin_from_earlier, find_earlier
from server.round_state import RoundState
from server.rounds import first_state, run_federation
from server.run_folder import RunFolder

MakePlan = Callable[..., FederationPlan]
Grow = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 2, "deadline_s": 0.1, "join_deadline_s": 0.1}
LABELS = [{"name": "organ", "index": 1}, {"name": "lesion", "index": 2}]


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Stages of two rounds and one, one class."""
    return make_plan(limits=LIMITS)


@pytest.fixture
def grow(make_plan: MakePlan, plan: FederationPlan) -> Grow:
    """A class and a stage of two rounds more, after the last round of the plan."""

    def make(**sections: Any) -> FederationPlan:
        extends = {"federation": plan.federation, "round": 3}
        grown = make_plan((2, 1, 2), labels=LABELS, limits=LIMITS, extends=extends)
        tasks = [task.model_dump() for task in grown.tasks]
        tasks[2]["classes"] = ["organ", "lesion"]
        values = {**grown.model_dump(), "tasks": tasks, **sections}
        return FederationPlan.model_validate(values)

    return make


@pytest.fixture
def earlier(plan: FederationPlan, tmp_path: Path) -> RunFolder:
    """The run of the plan, at its end."""
    folder = RunFolder(tmp_path / "earlier")
    folder.keep_plan(plan)
    _run(plan, folder)
    return folder


def _run(
    plan: FederationPlan, folder: RunFolder, hospitals: FakeHospitals | None = None
) -> RoundState:
    grid = (hospitals or FakeHospitals(NAMES)).grid()
    return run_federation(grid, plan, folder.checkpoints, lambda _: None)


def _go_on(plan: FederationPlan, folder: RunFolder) -> RoundState:
    folder.keep_plan(plan)
    begin_from_earlier(folder, plan)
    return _run(plan, folder)


def test_it_begins_where_the_earlier_one_ended(
    plan: FederationPlan, grow: Grow, earlier: RunFolder, tmp_path: Path
) -> None:
    grown, folder = grow(), RunFolder(tmp_path / "later")
    before = load_state(earlier.checkpoints, plan)
    begin_from_earlier(folder, grown)
    state = load_state(folder.checkpoints, grown)
    assert before is not None
    assert state is not None
    assert (state.round, state.history) == (3, before.history)
    assert state.closing is None
    assert state.strategy_arrays == {}
    assert same_arrays(state.arrays, grow_arrays(before.arrays, first_state(grown).arrays))
    assert state.arrays["student/model.2.conv.bias"].shape == (3,)
    # The ends of the stages before come along, for whoever reports on all stages.
    ended = read_state(folder.checkpoints / "round-00002", grown)
    assert (ended.round, len(ended.history)) == (2, 2)
    assert ended.arrays["student/model.2.conv.bias"].shape == (3,)
    again = load_state(earlier.checkpoints, plan)
    assert again is not None
    assert same_arrays(again.arrays, before.arrays)


def test_rounds_and_stages_go_on(grow: Grow, earlier: RunFolder, tmp_path: Path) -> None:
    grown, hospitals = grow(), FakeHospitals(NAMES)
    folder = RunFolder(tmp_path / "later")
    begin_from_earlier(folder, grown)
    begun = load_state(folder.checkpoints, grown)
    assert begun is not None
    state = _run(grown, folder, hospitals)
    assert [(record.round, record.stage) for record in state.history] == [
        (1, 0), (2, 0), (3, 1), (4, 2), (5, 2),
    ]  # fmt: skip
    asked = [(action, number) for _, action, number in hospitals.asked]
    assert asked == [(a, n) for a, n in [("hello", 0), ("train", 4), ("train", 5), ("score", 5)]
                     for _ in NAMES]  # fmt: skip
    arrays = begun.arrays
    for number in (4, 5):
        # What the fakes add, averaged by their scans: 1, 2, 3 and 10 of 16.
        step = sum(scans * scans / (7 + number) for scans in SCANS.values()) / 16
        arrays = {name: array * step + step for name, array in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_allclose(state.arrays[name], array, rtol=1e-4, atol=1e-6)


class _Killed(BaseException):
    """The end of the server's process."""


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
@pytest.mark.parametrize("after", [4, 5])
def test_killed_and_resumed_it_is_the_uninterrupted_run(
    grow: Grow, earlier: RunFolder, tmp_path: Path, strategy: str, after: int
) -> None:
    grown = grow(strategy={"name": strategy})
    killed, straight = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "straight")
    begin_from_earlier(killed, grown)

    def kill(state: RoundState) -> None:
        if state.round == after:
            raise _Killed

    with pytest.raises(_Killed):
        run_federation(FakeHospitals(NAMES).grid(), grown, killed.checkpoints, kill)
    resumed, uninterrupted = _go_on(grown, killed), _go_on(grown, straight)
    assert same_arrays(resumed.arrays, uninterrupted.arrays)
    assert same_arrays(resumed.strategy_arrays, uninterrupted.strategy_arrays)
    assert bool(resumed.strategy_arrays) == (strategy == "FedAdam")


def test_killed_while_it_begins_it_begins_again(
    grow: Grow, earlier: RunFolder, tmp_path: Path
) -> None:
    grown, folder = grow(), RunFolder(tmp_path / "later")
    begin_from_earlier(folder, grown)
    whole = load_state(folder.checkpoints, grown)
    # Only the end of the first stage had been taken over.
    (folder.checkpoints / "round-00003").rename(tmp_path / "lost")
    begin_from_earlier(folder, grown)
    again = load_state(folder.checkpoints, grown)
    assert whole is not None
    assert again is not None
    assert again.round == 3
    assert same_arrays(again.arrays, whole.arrays)


def test_a_run_that_has_begun_needs_the_earlier_one_no_more(
    grow: Grow, earlier: RunFolder, tmp_path: Path
) -> None:
    grown, folder = grow(), RunFolder(tmp_path / "later")
    begin_from_earlier(folder, grown)
    earlier.path.rename(tmp_path / "archive")
    (tmp_path / "archive" / "plan.toml").unlink()
    assert _go_on(grown, folder).round == 5


def test_the_strategy_counts_its_rounds_anew(make_plan: MakePlan, tmp_path: Path) -> None:
    # FedAdam's first step depends on how young its moments are: the same model and the same answers
    # give the same step, whether the model is first weights or comes from an earlier federation.
    adam = {"limits": LIMITS, "strategy": {"name": "FedAdam"}}
    plan = make_plan((1,), **adam)
    alone = RunFolder(tmp_path / "alone")
    _run(plan, alone)
    first = load_state(alone.checkpoints, plan)
    extended = make_plan((1, 1), **adam, extends={"federation": plan.federation, "round": 1})
    later = RunFolder(tmp_path / "later")
    save_state(later.checkpoints, RoundState(1, first_state(plan).arrays, {}, ()), extended)
    state = _run(extended, later, _SameSteps(NAMES))
    assert first is not None
    assert same_arrays(state.arrays, first.arrays)


class _SameSteps(FakeHospitals):
    """Answer round 2 with what they answer in round 1."""

    def _answer(self, name: str, data: bytes) -> bytes:
        request, arrays = decode_request(data)
        if request.action != "train":
            return super()._answer(name, data)
        plan = request.plan.model_copy(update={"extends": None})
        earlier = request.model_copy(update={"plan": plan, "round": request.round - 1})
        update = decode_update(super()._answer(name, encode_request(earlier, arrays)))
        note = update.note.model_copy(update={"round": request.round})
        return encode_update(type(update)(update.arrays, note))


def test_it_never_begins_with_fresh_weights(grow: Grow, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected the models of small-.*never begins with"):
        _run(grow(), RunFolder(tmp_path / "later"))


# Refused ----------------------------------------------------------------------------------------


def test_the_earlier_run_must_lie_beside_it(
    plan: FederationPlan, grow: Grow, earlier: RunFolder, tmp_path: Path
) -> None:
    assert find_earlier(RunFolder(tmp_path / "later"), grow()) == earlier
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "plan.toml").write_text("from = 'another version'\n")
    assert find_earlier(RunFolder(tmp_path / "later"), grow()) == earlier
    with pytest.raises(
        SettingsError, match=r"no run in .*elsewhere is of that .*\(there are: none"
    ):
        find_earlier(RunFolder(tmp_path / "elsewhere" / "later"), grow())
    unknown = grow(extends={"federation": "small-00000000", "round": 3})
    with pytest.raises(
        SettingsError, match=rf"there are: {plan.federation}\): .*extends.federatio"
    ):
        find_earlier(RunFolder(tmp_path / "later"), unknown)


def test_only_a_saved_round_can_be_gone_on_from(
    plan: FederationPlan, grow: Grow, earlier: RunFolder, tmp_path: Path
) -> None:
    early = grow(extends={"federation": plan.federation, "round": 1})
    with pytest.raises(CheckpointError, match=r"after its round 1, .* saved the rounds 2, 3: set"):
        find_earlier(RunFolder(tmp_path / "later"), early)
    ended = grow(extends={"federation": plan.federation, "round": 2})
    begin_from_earlier(RunFolder(tmp_path / "branch"), ended)
    state = load_state(RunFolder(tmp_path / "branch").checkpoints, ended)
    assert state is not None
    assert (state.round, len(state.history)) == (2, 2)


def test_a_plan_that_may_not_follow_is_refused_before_anything_is_saved(
    grow: Grow, earlier: RunFolder, tmp_path: Path
) -> None:
    labels = [{"name": "kidney", "index": 1}, LABELS[1]]
    tasks = [{**task.model_dump(), "classes": ["kidney"]} for task in grow().tasks]
    renamed, folder = grow(labels=labels, tasks=tasks), RunFolder(tmp_path / "later")
    with pytest.raises(SettingsError, match="label 1 was called 'organ', here 'kidney'"):
        begin_from_earlier(folder, renamed)
    assert not folder.path.exists()


def test_start_looks_at_once_and_keeps_no_plan_that_is_refused(
    plan: FederationPlan,
    grow: Grow,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    invoke = CliRunner().invoke
    assert invoke(app, ["init", "--name", "north", "--address", "127.0.0.1"]).exit_code == 0
    path = tmp_path / "grown.toml"
    values = grow().model_dump(mode="json", exclude_none=True)
    path.write_text(tomli_w.dumps(values), encoding="utf-8")
    start = ["start", str(path), "--name", "later"]
    assert isinstance(invoke(app, start).exception, SettingsError)
    runs = tmp_path / "consortium" / "runs"
    assert not (runs / "later" / "plan.toml").exists()
    earlier = RunFolder(runs / "earlier")
    earlier.keep_plan(plan)
    _run(plan, earlier)
    done = invoke(app, start)
    assert done.exit_code == 0, done.output
    assert (runs / "later" / "plan.toml").exists()
