"""What a coordinator and a researcher read about a federation."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from scored_rounds import scored_state

from common.errors import CheckpointError
from common.plan import FederationPlan
from server.checkpoints import save_state
from server.federation_status import (
    FederationStatus,
    duration,
    federation_status,
    federation_text,
)
from server.progress import Step, telling_progress
from server.round_state import Dropped, RoundState
from server.run_folder import RunFolder
from server.wanted import Wanted, alone, newest_round, read_wanted, write_wanted

MakeState = Callable[..., RoundState]
MakePlan = Callable[..., FederationPlan]


@pytest.fixture
def folder(tmp_path: Path, plan: FederationPlan) -> RunFolder:
    made = RunFolder(tmp_path / "first")
    made.keep_plan(plan)
    return made


def _want(folder: RunFolder, **values: object) -> None:
    with alone(folder):
        write_wanted(folder, Wanted.model_validate({"run_id": "7", **values}))


def _status(folder: RunFolder, plan: FederationPlan) -> tuple[FederationStatus, str]:
    status = federation_status(folder)
    return status, federation_text(status, plan)


def test_a_folder_in_which_nothing_happened_is_said_to_be_so(folder: RunFolder) -> None:
    with pytest.raises(CheckpointError, match="no round is saved yet"):
        federation_status(folder)


def test_what_the_noise_has_spent_is_told(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(2)
    save_state(folder.checkpoints, state, plan)
    assert "epsilon" not in _status(folder, plan)[1]
    last = state.history[-1].model_copy(update={"epsilon": 12.345})
    save_state(folder.checkpoints, replace(state, history=(state.history[0], last)), plan)
    assert "privacy: epsilon 12.3 spent" in _status(folder, plan)[1]


def test_what_was_lost_is_told_where_it_is_more_than_noise(
    folder: RunFolder, plan: FederationPlan
) -> None:
    rounds = [
        {"north": {"task1": 0.75}, "south": {"task1": 0.75}},
        {"north": {"task1": 0.5}, "south": {"task1": 0.625}},
        {"north": {"task1": 0.74}, "south": {"task1": 0.76}},
    ]
    save_state(folder.checkpoints, scored_state(plan, rounds[:2], closed=False), plan)
    status, text = _status(folder, plan)
    told = [(row.hospital, row.loss) for row in status.losses]
    assert told == [("north", 0.25), ("south", 0.125)]
    sentence = "north lost 0.250 on task1 (0.750 in round 1, now 0.500 on 10 slices), and 1 more"
    assert f"  lost: {sentence}; see the report's ledger" in text
    assert status.release is None
    assert "release" not in text
    save_state(folder.checkpoints, scored_state(plan, rounds), plan)
    status, text = _status(folder, plan)
    assert (status.losses, status.finished) == ((), True)
    assert "lost" not in text


def test_the_gate_says_which_round_may_be_given_out(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan((5,), release={"most_loss": 0.25})
    folder = RunFolder(tmp_path / "gated")
    folder.keep_plan(plan)

    def told(*dice: float) -> str:
        rounds = [{"north": {"task1": one}} for one in dice]
        save_state(folder.checkpoints, scored_state(plan, rounds, closed=False), plan)
        (line,) = [one for one in _status(folder, plan)[1].splitlines() if "release:" in one]
        return line.strip()

    assert told(0.75) == (
        "release: round 1 is promoted; round 2 is not: not scored yet: its scores come with round 3"
    )
    # The newest round waits for its scores; that the one before was refused is the news.
    assert told(0.75, 0.25).startswith("release: round 1 is promoted; round 2 is not: north lost")
    assert told(0.75, 0.25, 0.75).startswith("release: round 3 is promoted; round 4 is not: not sc")


def test_a_gate_that_let_nothing_pass_says_so(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan((5,), release={"most_loss": 0.25})
    folder = RunFolder(tmp_path / "gated")
    folder.keep_plan(plan)
    save_state(folder.checkpoints, scored_state(plan, [{"north": {}}], closed=False), plan)
    told = _status(folder, plan)[1]
    assert "release: no round is promoted yet; round 2 is not: not scored" in told


def test_a_run_that_ended_in_the_middle(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    save_state(folder.checkpoints, make_state(2), plan)
    status, text = _status(folder, plan)
    assert (status.state, status.round, status.rounds, status.finished) == ("gone", 2, 3, False)
    assert status.last == make_state(2).history[-1]
    lines = text.splitlines()
    assert lines[0].startswith(f"{plan.federation}: round 2 of 3, stage task1, gone, last round ")
    assert "its server has ended: start it again" in lines[1]
    assert "north           trained      used 2    task1 0.500" in text
    assert "west            silent       no answer" in text
    assert "missing: west: round 2: no answer; ask the hospital for" in text


def test_what_a_hospital_says_moves_no_cursor_and_adds_no_line(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(1)
    bad = Dropped(hospital="west", kind="failed", reason="\x1b[2Ja\nnorth trained \u202eb")
    last = state.history[-1].model_copy(update={"dropped": (bad,)})
    save_state(folder.checkpoints, replace(state, history=(last,)), plan)
    with telling_progress(folder.progress_file, plan.federation, "7", 3) as tell:
        tell(Step("waiting", 2, (), f"stays out: {bad.reason}"))
        text = _status(folder, plan)[1]
    assert text.count(r"\x1b[2Ja\nnorth trained \u202eb") == 3
    assert all(line.isprintable() for line in text.split("\n"))


def test_a_finished_run_misses_nobody(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    save_state(folder.checkpoints, make_state(3, closed=True), plan)
    status, text = _status(folder, plan)
    assert (status.state, status.finished, status.missing) == ("finished", True, ())
    assert f"{plan.federation}: round 3 of 3, stage task2, finished\n" in text


def test_a_server_at_work_says_what_it_does_and_for_whom_it_waits(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    save_state(folder.checkpoints, make_state(1), plan)
    _want(folder)
    with telling_progress(folder.progress_file, plan.federation, "7", 3) as tell:
        tell(Step("asking", 2, ("south", "west"), "hospitals train"))
        status, text = _status(folder, plan)
    assert (status.state, status.round, status.working_on) == ("asking", 1, 2)
    assert [(one.hospital, one.why) for one in status.missing] == [
        ("south", "asked"),
        ("west", "round 1: no answer"),
    ]
    assert "round 1 of 3, stage task1, asking (round 2), last round 0 seconds ago" in text
    assert "hospitals train" in text


def test_a_killed_server_is_about_to_be_started_again(
    folder: RunFolder, plan: FederationPlan
) -> None:
    _want(folder, starts=2)
    program = (
        "import sys, time; from pathlib import Path; from server.progress import telling_progress\n"
        "with telling_progress(Path(sys.argv[1]), 'small', '7', 3): time.sleep(600)"
    )
    server = subprocess.Popen([sys.executable, "-c", program, str(folder.progress_file)])
    try:
        deadline = time.monotonic() + 30
        while not folder.progress_file.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert federation_status(folder).state == "waiting"
    finally:
        server.kill()
        server.wait()
    status, text = _status(folder, plan)
    assert status.state == "starting"
    assert "start 2 of 5" in text


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"wanted": "stopped"}, "`oneslice coordinator resume first` goes on with it"),
        (
            {"wanted": "failed", "reason": "5 starts without a new round: the disk is full"},
            "given up after 5 starts without a new round: the disk is full; then `oneslice coord",
        ),
    ],
)
def test_what_is_not_wanted_says_how_to_go_on(
    folder: RunFolder, plan: FederationPlan, values: dict[str, object], sentence: str
) -> None:
    _want(folder, **values)
    status, text = _status(folder, plan)
    assert status.state == values["wanted"]
    assert sentence in text


def test_pauses_between_starts_grow_to_a_minute() -> None:
    assert [Wanted(starts=starts).pause_s for starts in range(6)] == [5, 10, 20, 40, 60, 60]


def test_a_start_of_a_clock_that_was_ahead_is_waited_for_no_longer() -> None:
    now = datetime.now(UTC)
    ahead, before = (now + timedelta(days=days) for days in (300, -300))
    assert Wanted(submitted=ahead.isoformat()).submitted_s == float("inf")
    assert Wanted(submitted=before.isoformat()).submitted_s == pytest.approx(300 * 86400, abs=60)


def test_the_newest_round_is_known_without_opening_it(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    assert newest_round(folder) == 0
    for number in (1, 2):
        save_state(folder.checkpoints, make_state(number), plan)
    assert newest_round(folder) == 2


def test_what_is_wanted_comes_back_and_damage_is_named(folder: RunFolder) -> None:
    assert read_wanted(folder) is None
    _want(folder, starts=3)
    assert read_wanted(folder) == Wanted(run_id="7", starts=3)
    (folder.path / "wanted.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged: remove it, and `oneslice coordinator"):
        read_wanted(folder)


def test_lengths_of_time_are_told_in_the_unit_that_a_person_would_choose() -> None:
    told = [duration(seconds) for seconds in (0, 119, 120, 7199, 7200, 172799, 172800)]
    assert told == [
        "0 seconds",
        "119 seconds",
        "2 minutes",
        "120 minutes",
        "2 hours",
        "48 hours",
        "2 days",
    ]
