"""The round loop: who counts, what is saved, and that a resumed run is the same run."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import fake_hospitals
import numpy as np
import pytest
from fake_hospitals import SCANS, ChangingGrid, FakeHospitals, Misdeed
from same_states import same_arrays, without_seconds

from common.errors import CheckpointError, QuorumError
from common.plan import FederationPlan
from common.wire import bytes_by_network
from server import asking, rounds
from server.checkpoints import load_state, save_state
from server.progress import Step
from server.round_state import Dropped, RoundState
from server.rounds import first_state, run_federation

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 2, "deadline_s": 0.1, "join_deadline_s": 0.1}


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Two stages of two rounds and one; four hospitals, two are enough."""
    return make_plan(limits=LIMITS)


def _ignore(_: RoundState) -> None:
    """Nobody is told."""


def _run(hospitals: FakeHospitals, plan: FederationPlan, checkpoints: Path) -> RoundState:
    return run_federation(hospitals.grid(), plan, checkpoints, _ignore)


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
        assert same_arrays(saved.arrays, state.arrays)
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
    assert same_arrays(state.arrays, abstained.arrays)
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
    assert same_arrays(state.arrays, abstained.arrays)
    everybody = _run(FakeHospitals(NAMES), plan, tmp_path / "all")
    assert not same_arrays(state.arrays, everybody.arrays)


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
    assert same_arrays(state.arrays, uninterrupted.arrays)


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
    assert same_arrays(resumed.arrays, uninterrupted.arrays)
    assert same_arrays(resumed.strategy_arrays, uninterrupted.strategy_arrays)
    assert bool(resumed.strategy_arrays) == (strategy == "FedAdam")
    assert without_seconds(resumed) == without_seconds(uninterrupted)


def test_the_order_of_nodes_does_not_change_a_bit(plan: FederationPlan, tmp_path: Path) -> None:
    here = _run(FakeHospitals(NAMES), plan, tmp_path / "here")
    others = dict(zip((11, 7, 5, 2), reversed(NAMES.values()), strict=True))
    there = _run(FakeHospitals(others), plan, tmp_path / "there")
    assert same_arrays(here.arrays, there.arrays)
    assert without_seconds(here) == without_seconds(there)


def test_a_finished_run_is_returned_without_asking_anybody(
    plan: FederationPlan, tmp_path: Path
) -> None:
    finished = _run(FakeHospitals(NAMES), plan, tmp_path)
    nobody = FakeHospitals({})
    again = _run(nobody, plan, tmp_path)
    assert nobody.asked == []
    assert same_arrays(again.arrays, finished.arrays)
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
    assert same_arrays(again.arrays, state.arrays)


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
