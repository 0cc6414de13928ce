"""The round loop: who counts, what is saved, and that a resumed run is the same run."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import fake_hospitals
import numpy as np
import pytest
from fake_hospitals import SCANS, ChangingGrid, FakeHospitals, Misdeed

from common.errors import CheckpointError, QuorumError
from common.plan import FederationPlan
from common.updates import Arrays
from common.wire import bytes_by_network
from server import asking, rounds
from server.checkpoints import load_state, save_state
from server.progress import Step
from server.round_state import Dropped, RoundRecord, RoundState
from server.rounds import first_state, run_federation

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 2, "deadline_s": 0.1, "join_deadline_s": 0.1}


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "LONGEST_PAUSE_S", 0.01)


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Two stages of two rounds and one; four hospitals, two are enough."""
    return make_plan(limits=LIMITS)


def _ignore(_: RoundState) -> None:
    """Nobody is told."""


def _run(hospitals: FakeHospitals, plan: FederationPlan, checkpoints: Path) -> RoundState:
    return run_federation(hospitals.grid(), plan, checkpoints, _ignore)


def _same(left: Arrays, right: Arrays) -> bool:
    assert left.keys() == right.keys()
    return all(left[name].tobytes() == right[name].tobytes() for name in left)


def _without_seconds(state: RoundState) -> list[RoundRecord]:
    records = [*state.history, *([state.closing] if state.closing else [])]
    return [record.model_copy(update={"seconds": {}}) for record in records]


def test_a_federation_from_beginning_to_end(plan: FederationPlan, tmp_path: Path) -> None:
    hospitals = FakeHospitals(NAMES)
    state = _run(hospitals, plan, tmp_path)
    arrays = first_state(plan).arrays
    size = bytes_by_network(arrays)
    assert size.keys() == {"segmenter", "student"}
    for number, record in enumerate(state.history, 1):
        assert (record.round, record.stage) == (number, [0, 0, 1][number - 1])
        assert [note.hospital for note in record.notes] == ["east", "north", "south", "west"]
        assert record.averaged == ("east", "north", "south", "west")
        assert record.dropped == ()
        assert record.bytes_down == size
        assert record.bytes_up == dict.fromkeys(SCANS, size)
        assert record.seconds.keys() == {"wait", "aggregate"}
        # What the fakes add, averaged by their scans: 1, 2, 3 and 10 of 16.
        steps = {name: scans / (7 + number) for name, scans in SCANS.items()}
        step = sum(scans * steps[name] for name, scans in SCANS.items()) / 16
        arrays = {name: array * step + step for name, array in arrays.items()}
    for name, array in arrays.items():
        np.testing.assert_allclose(state.arrays[name], array, rtol=1e-4, atol=1e-6)
    assert state.closing is not None
    assert [note.outcome for note in state.closing.notes] == ["scored"] * 4
    assert (state.round, state.closing.round, state.closing.stage) == (3, 3, 1)
    expected = [(action, number) for action, number in ASKED for _ in NAMES]
    assert [(action, number) for _, action, number in hospitals.asked] == expected


ASKED = [("hello", 0), ("train", 1), ("train", 2), ("train", 3), ("score", 3)]


def test_every_round_is_saved_before_anybody_is_told(plan: FederationPlan, tmp_path: Path) -> None:
    told = []

    def on_round(state: RoundState) -> None:
        saved = load_state(tmp_path, plan)
        assert saved is not None
        assert (saved.round, saved.history, saved.closing) == (
            state.round,
            state.history,
            state.closing,
        )
        assert _same(saved.arrays, state.arrays)
        told.append((state.round, state.closing is not None))

    run_federation(FakeHospitals(NAMES).grid(), plan, tmp_path, on_round)
    assert told == [(1, False), (2, False), (3, False), (3, True)]


@pytest.mark.parametrize(("name", "mu"), [("FedProx", 0.25), ("FedAvg", 0.0)])
def test_hospitals_hear_how_closely_to_stay(
    make_plan: MakePlan, tmp_path: Path, name: str, mu: float
) -> None:
    plan = make_plan(limits=LIMITS, strategy={"name": name, "proximal_mu": mu})
    hospitals = FakeHospitals(NAMES)
    _run(hospitals, plan, tmp_path)
    told = zip(hospitals.asked, hospitals.proximal_mus, strict=True)
    assert {heard for (_, action, _), heard in told if action == "train"} == {mu}


MISDEEDS: list[tuple[Misdeed, str, str]] = [
    ("silent", "silent", "no answer within the deadline"),
    ("error", "failed", "Flower error 2"),
    ("garbage", "bad_reply", "expected a reply in safetensors"),
    ("nan", "bad_reply", "segmenter/model.0.conv.weight: expected finite numbers"),
    ("impostor", "bad_reply", "signed 'someone-else', came from 'north'"),
    ("failed", "failed", "StoreError: see the hospital's log"),
    ("lost", "failed", "the worker cannot be reached"),
]


@pytest.mark.parametrize(("misdeed", "kind", "reason"), MISDEEDS, ids=[m[0] for m in MISDEEDS])
def test_a_hospital_that_fails_is_named_and_the_round_goes_on(
    plan: FederationPlan, tmp_path: Path, misdeed: Misdeed, kind: str, reason: str
) -> None:
    state = _run(FakeHospitals(NAMES, {("north", 2): misdeed}), plan, tmp_path / "here")
    record = state.history[1]
    (dropped,) = record.dropped
    assert (dropped.hospital, dropped.kind) == ("north", kind)
    assert reason in dropped.reason
    assert record.averaged == ("east", "south", "west")
    assert [note.hospital for note in record.notes] == ["east", "south", "west"]
    assert state.history[0].dropped == state.history[2].dropped == ()
    abstained = _run(FakeHospitals(NAMES, {("north", 2): "nothing"}), plan, tmp_path / "there")
    assert _same(state.arrays, abstained.arrays)
    assert abstained.history[1].dropped == ()
    assert abstained.history[1].averaged == ("east", "south", "west")


def test_several_failures_at_once_leave_what_abstaining_would(
    plan: FederationPlan, tmp_path: Path
) -> None:
    bad: dict[tuple[str, int], Misdeed] = {("north", 1): "silent", ("east", 1): "nan"}
    state = _run(FakeHospitals(NAMES, bad), plan, tmp_path / "here")
    kinds = {one.hospital: one.kind for one in state.history[0].dropped}
    assert kinds == {"north": "silent", "east": "bad_reply"}
    nothing: dict[tuple[str, int], Misdeed] = dict.fromkeys(bad, "nothing")
    abstained = _run(FakeHospitals(NAMES, nothing), plan, tmp_path / "there")
    assert _same(state.arrays, abstained.arrays)
    everybody = _run(FakeHospitals(NAMES), plan, tmp_path / "all")
    assert not _same(state.arrays, everybody.arrays)


def test_a_round_of_abstentions_alone_has_no_model(plan: FederationPlan, tmp_path: Path) -> None:
    nothing: dict[tuple[str, int], Misdeed] = {(name, 2): "nothing" for name in SCANS}
    with pytest.raises(QuorumError, match=r"round 2: 4 answers and 0 models .*none dropped"):
        _run(FakeHospitals(NAMES, nothing), plan, tmp_path)


def test_a_round_without_a_model_says_why_hospitals_abstained(
    plan: FederationPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = {"outcome": "abstained", "reason": "no annotated scan to train on"}
    monkeypatch.setitem(fake_hospitals.INSTEAD, "nothing", said)
    nothing: dict[tuple[str, int], Misdeed] = {(name, 1): "nothing" for name in SCANS}
    with pytest.raises(QuorumError, match=r"0 models .*\(east: no annotated scan to train on; "):
        _run(FakeHospitals(NAMES, nothing), plan, tmp_path)


def test_without_a_quorum_the_saved_rounds_stay_and_the_run_goes_on_later(
    plan: FederationPlan, tmp_path: Path
) -> None:
    bad: dict[tuple[str, int], Misdeed] = {
        ("north", 3): "silent",
        ("east", 3): "error",
        ("west", 3): "nan",
    }
    message = (
        r"round 3: 1 answers and 1 models .*2 answers and 1 models for FedAvg .*east: .*north: "
    )
    with pytest.raises(QuorumError, match=message):
        _run(FakeHospitals(NAMES, bad), plan, tmp_path / "here")
    saved = load_state(tmp_path / "here", plan)
    assert saved is not None
    assert saved.round == 2
    state = _run(FakeHospitals(NAMES), plan, tmp_path / "here")
    uninterrupted = _run(FakeHospitals(NAMES), plan, tmp_path / "there")
    assert _same(state.arrays, uninterrupted.arrays)


def test_krum_asks_for_as_many_models_as_it_needs(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(strategy={"name": "Krum"}, limits={**LIMITS, "quorum": 3})
    nothing: dict[tuple[str, int], Misdeed] = {("north", 1): "nothing", ("east", 1): "nothing"}
    message = "round 1: 4 answers and 2 models counted, needed are 3 answers and 3 models for Krum"
    with pytest.raises(QuorumError, match=message):
        _run(FakeHospitals(NAMES, nothing), plan, tmp_path)


class _Killed(BaseException):
    """The end of the server's process."""


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedMedian"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_resumed_run_is_the_uninterrupted_run(
    make_plan: MakePlan, tmp_path: Path, strategy: str, after: int
) -> None:
    plan = make_plan(limits=LIMITS, strategy={"name": strategy})

    def kill(state: RoundState) -> None:
        if state.round == after:
            raise _Killed

    with pytest.raises(_Killed):
        run_federation(FakeHospitals(NAMES).grid(), plan, tmp_path / "here", kill)
    hospitals = FakeHospitals(NAMES)
    resumed = _run(hospitals, plan, tmp_path / "here")
    assert [number for _, action, number in hospitals.asked if action == "train"] == [
        number for number in range(after + 1, 4) for _ in NAMES
    ]
    uninterrupted = _run(FakeHospitals(NAMES), plan, tmp_path / "there")
    assert _same(resumed.arrays, uninterrupted.arrays)
    assert _same(resumed.strategy_arrays, uninterrupted.strategy_arrays)
    assert bool(resumed.strategy_arrays) == (strategy == "FedAdam")
    assert _without_seconds(resumed) == _without_seconds(uninterrupted)


def test_the_order_of_nodes_does_not_change_a_bit(plan: FederationPlan, tmp_path: Path) -> None:
    here = _run(FakeHospitals(NAMES), plan, tmp_path / "here")
    others = dict(zip((11, 7, 5, 2), reversed(NAMES.values()), strict=True))
    there = _run(FakeHospitals(others), plan, tmp_path / "there")
    assert _same(here.arrays, there.arrays)
    assert _without_seconds(here) == _without_seconds(there)


def test_a_finished_run_is_returned_without_asking_anybody(
    plan: FederationPlan, tmp_path: Path
) -> None:
    finished = _run(FakeHospitals(NAMES), plan, tmp_path)
    nobody = FakeHospitals({})
    again = _run(nobody, plan, tmp_path)
    assert nobody.asked == []
    assert _same(again.arrays, finished.arrays)
    assert (again.history, again.closing) == (finished.history, finished.closing)


def test_another_plan_is_refused_before_anybody_is_asked(
    plan: FederationPlan, make_plan: MakePlan, tmp_path: Path
) -> None:
    save_state(tmp_path, RoundState(1, {"a": np.zeros(1)}, {}, ()), plan)
    hospitals = FakeHospitals(NAMES)
    with pytest.raises(CheckpointError, match="belongs to the plan"):
        _run(hospitals, make_plan(limits=LIMITS, seed=1), tmp_path)
    assert hospitals.asked == []


def test_a_hospital_may_come_late_and_go_early(plan: FederationPlan, tmp_path: Path) -> None:
    hospitals = FakeHospitals(NAMES)
    grid = hospitals.grid()
    grid.__class__ = ChangingGrid
    everybody, without_east, without_west = {1, 2, 3, 4}, {1, 2, 3}, {2, 3, 4}
    # Looks: joining, then three of each round (the greeting, and two of Flower's own).
    looks = [*[everybody] * 3, *[without_east] * 3, *[everybody] * 3]
    grid.looks = [everybody, *looks, without_west]
    state = run_federation(grid, plan, tmp_path, _ignore)
    assert [record.averaged for record in state.history] == [
        ("east", "north", "south", "west"),
        ("north", "south", "west"),
        ("east", "north", "south", "west"),
    ]
    assert state.closing is not None
    assert [note.hospital for note in state.closing.notes] == ["east", "north", "south"]
    assert state.closing.dropped == (
        Dropped(hospital="west", kind="offline", reason="was not online when the round began"),
    )


def test_when_everybody_has_left_the_run_stops(plan: FederationPlan, tmp_path: Path) -> None:
    grid = FakeHospitals(NAMES).grid()
    grid.__class__ = ChangingGrid
    grid.looks = [set(NAMES), *[set(NAMES)] * 3, set()]
    with pytest.raises(QuorumError, match="round 2: 0 answers and 0 models"):
        run_federation(grid, plan, tmp_path, _ignore)


def test_a_node_that_never_greets_does_not_hold_up_every_round(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "GREETING_S", 0.02)
    monkeypatch.setattr(rounds, "GREETING_S", 0.02)
    plan = make_plan(limits={"hospitals": 3, "deadline_s": 30, "join_deadline_s": 30})
    started = time.monotonic()
    state = _run(FakeHospitals(NAMES, {("east", 0): "silent"}), plan, tmp_path)
    assert time.monotonic() - started < 10
    assert state.history[-1].averaged == ("north", "south", "west")


def test_a_lost_last_round_is_done_again_with_the_same_result(
    plan: FederationPlan, tmp_path: Path
) -> None:
    state = _run(FakeHospitals(NAMES), plan, tmp_path)
    shutil.rmtree(tmp_path / "round-00003")
    again = _run(FakeHospitals(NAMES), plan, tmp_path)
    assert _same(again.arrays, state.arrays)


PATIENT = {**LIMITS, "patience_s": 600.0}


@pytest.fixture
def _short_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(rounds, "LONGEST_PAUSE_S", 0.02)


@pytest.mark.usefixtures("_short_tries")
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
    assert _same(state.arrays, undisturbed.arrays)
    assert _same(state.strategy_arrays, undisturbed.strategy_arrays)
    assert _without_seconds(state) == _without_seconds(undisturbed)
    asked = [(name, number) for name, action, number in hospitals.asked if action == "train"]
    assert asked.count(("south", 2)) == 3
    tries = [one for one in steps if one.sentence.startswith("tries again")]
    assert [(one.phase, one.round, one.waiting_for) for one in tries] == [
        ("waiting", 2, ("east", "north", "west"))
    ] * 2
    assert "round 2: 1 answers" in tries[0].sentence


@pytest.mark.usefixtures("_short_tries")
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


@pytest.mark.usefixtures("_short_tries")
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
    assert _same(state.arrays, undisturbed.arrays)


def test_every_step_is_told(plan: FederationPlan, tmp_path: Path) -> None:
    steps: list[Step] = []
    bad: dict[tuple[str, int], Misdeed] = {("north", 0): "failed", ("east", 2): "silent"}
    run_federation(FakeHospitals(NAMES, bad).grid(), plan, tmp_path, _ignore, steps.append)
    told = [(step.phase, step.round) for step in steps]
    assert sorted(set(told), key=told.index) == [
        ("waiting", 0),
        *((phase, number) for number in (1, 2, 3) for phase in ("asking", "averaging")),
        ("finished", 3),
    ]
    last_look = [step.sentence for step in steps if step.phase == "waiting"][-1]
    assert last_look.startswith("3 of 4 hospitals are there: east, south, west; stays out: ")
    assert "north did not take the plan: StoreError: see the hospital's log" in last_look
    second = [step for step in steps if step.phase == "asking" and step.round == 2]
    assert [step.waiting_for for step in second] == [("east", "south", "west"), ("east",)]
    assert second[0].sentence.startswith("hospitals train; stays out: north did not take the plan")
    assert steps[-2].sentence.startswith("hospitals score the models; stays out: north did not ta")


@pytest.mark.usefixtures("_short_tries")
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
    assert _without_seconds(state) == _without_seconds(undisturbed)
    (tries,) = [one for one in steps if one.sentence.startswith("tries again")]
    assert tries.waiting_for == ("east", "north", "south", "west")


@pytest.mark.usefixtures("_short_tries")
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


@pytest.mark.usefixtures("_short_tries")
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
