"""A quorum that is lost comes back, or does not while patience lasts."""

from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hospitals import SCANS, ChangingGrid, FakeHospitals, Misdeed
from same_states import same_arrays, without_seconds

from common.errors import QuorumError
from common.plan import FederationPlan
from server import patience
from server.checkpoints import load_state
from server.progress import Step
from server.round_state import RoundState
from server.rounds import run_federation

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 2, "deadline_s": 0.1, "join_deadline_s": 0.1}
PATIENT = {**LIMITS, "patience_s": 600.0}


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Two stages of two rounds and one; four hospitals, two are enough."""
    return make_plan(limits=LIMITS)


class _Killed(BaseException):
    """The end of the server's process."""


def _ignore(_: RoundState) -> None:
    """Nobody is told."""


def _run(hospitals: FakeHospitals, plan: FederationPlan, checkpoints: Path) -> RoundState:
    return run_federation(hospitals.grid(), plan, checkpoints, _ignore)


@pytest.fixture(autouse=True)
def _short_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(patience, "LONGEST_PAUSE_S", 0.02)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
def test_a_round_without_a_quorum_is_asked_again_and_nothing_counts_twice(
    make_plan: MakePlan, tmp_path: Path, strategy: str
) -> None:
    plan = make_plan(limits=PATIENT, strategy={"name": strategy})
    misdeeds: dict[tuple[str, int], Misdeed] = {
        ("north", 2): "silent",
        ("east", 2): "error",
        ("west", 2): "nan",
    }
    hospitals, steps = FakeHospitals(NAMES, misdeeds), list[Step]()

    def on_progress(step: Step) -> None:
        steps.append(step)
        if sum(one.sentence.startswith("tries again") for one in steps) == 2:
            misdeeds.clear()

    state = run_federation(hospitals.grid(), plan, tmp_path / "here", _ignore, on_progress)
    undisturbed = _run(FakeHospitals(NAMES), plan, tmp_path / "there")
    assert same_arrays(state.arrays, undisturbed.arrays)
    assert same_arrays(state.strategy_arrays, undisturbed.strategy_arrays)
    assert without_seconds(state) == without_seconds(undisturbed)
    asked = [(name, number) for name, action, number in hospitals.asked if action == "train"]
    assert asked.count(("south", 2)) == 3
    tries = [one for one in steps if one.sentence.startswith("tries again")]
    assert [(one.phase, one.round, one.waiting_for) for one in tries] == [
        ("waiting", 2, ("east", "north", "west"))
    ] * 2
    assert "round 2: 1 answers" in tries[0].sentence


def test_patience_ends(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(limits={**LIMITS, "patience_s": 0.3})
    bad: dict[tuple[str, int], Misdeed] = {(name, 2): "error" for name in SCANS}
    hospitals = FakeHospitals(NAMES, bad)
    with pytest.raises(QuorumError, match="round 2: 0 answers") as raised:
        _run(hospitals, plan, tmp_path)
    assert raised.value.missing == ("east", "north", "south", "west")
    assert hospitals.asked.count(("south", "train", 2)) > 1
    saved = load_state(tmp_path, plan)
    assert saved is not None
    assert saved.round == 1


def test_a_quorum_that_does_not_join_is_waited_for(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(limits=PATIENT)
    grid = FakeHospitals(NAMES).grid()
    grid.__class__ = ChangingGrid
    grid.looks = [set()]

    def on_progress(step: Step) -> None:
        if step.sentence.startswith("tries again"):
            grid.looks = [set(NAMES)]

    state = run_federation(grid, plan, tmp_path / "here", _ignore, on_progress)
    undisturbed = _run(FakeHospitals(NAMES), plan, tmp_path / "there")
    assert same_arrays(state.arrays, undisturbed.arrays)


def test_a_quorum_that_is_away_is_waited_for_with_the_closing_scores(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, steps = make_plan(limits=PATIENT), list[Step]()
    grid = FakeHospitals(NAMES).grid()
    grid.__class__ = ChangingGrid
    grid.looks = [set(NAMES), *[set(NAMES)] * 9, set()]

    def on_progress(step: Step) -> None:
        steps.append(step)
        if step.sentence.startswith("tries again: closing scores: 0 answers"):
            grid.looks = [set(NAMES)]

    state = run_federation(grid, plan, tmp_path / "here", _ignore, on_progress)
    undisturbed = _run(FakeHospitals(NAMES), plan, tmp_path / "there")
    assert without_seconds(state) == without_seconds(undisturbed)
    (tries,) = [one for one in steps if one.sentence.startswith("tries again")]
    assert tries.waiting_for == ("east", "north", "south", "west")


@pytest.mark.parametrize("there", [set(), {2}])
def test_a_run_whose_hospitals_stay_away_finishes_with_the_scores_that_there_are(
    make_plan: MakePlan, tmp_path: Path, there: set[int]
) -> None:
    plan = make_plan(limits={**LIMITS, "patience_s": 0.1})
    grid = FakeHospitals(NAMES).grid()
    grid.__class__ = ChangingGrid
    grid.looks = [set(NAMES), *[set(NAMES)] * 9, there]
    state = run_federation(grid, plan, tmp_path, _ignore)
    assert (state.round, load_state(tmp_path, plan).closing) == (3, state.closing)
    assert state.closing is not None
    assert [note.hospital for note in state.closing.notes] == [NAMES[node] for node in there]
    assert len(state.closing.dropped) == 4 - len(there)


def test_a_run_resumed_after_its_last_round_finishes_without_hospitals(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(limits={**LIMITS, "patience_s": 0.1})

    def kill(state: RoundState) -> None:
        if state.round == plan.num_rounds:
            raise _Killed

    with pytest.raises(_Killed):
        run_federation(FakeHospitals(NAMES).grid(), plan, tmp_path, kill)
    state = _run(FakeHospitals({}), plan, tmp_path)
    assert state.closing is not None
    assert [one.kind for one in state.closing.dropped] == ["offline"] * 4
