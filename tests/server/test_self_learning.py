"""The rounds before the first task: what travels, what is averaged, and that they resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_hospitals import SCANS, FakeHospitals, Misdeed
from same_states import same_arrays

from common.errors import QuorumError
from common.plan import FederationPlan
from common.updates import LocalUpdate, Note, trained_in
from common.wire import bytes_by_network
from server.checkpoints import load_state
from server.round_state import RoundState
from server.rounds import first_state, run_federation
from server.strategy import check_update

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 3, "deadline_s": 0.1, "join_deadline_s": 0.1}
SIZES = {"channels": 2, "layers": 1, "descriptor_length": 2, "edge_radius_voxels": 1}
LEARNING = {
    "correspondence": {**SIZES, "rounds": 2},
    "propagation": {"candidates": ["patches", "correspondence"]},
    "limits": LIMITS,
}


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Two rounds of self-learning, then stages of two rounds and one."""
    return make_plan(**LEARNING)


def _run(
    plan: FederationPlan,
    checkpoints: Path,
    misdeeds: dict[tuple[str, int], Misdeed] | None = None,
    on_round: Callable[[RoundState], None] = lambda _: None,
) -> RoundState:
    hospitals = FakeHospitals(NAMES, misdeeds or {})
    return run_federation(hospitals.grid(), plan, checkpoints, on_round)


def test_the_first_state_holds_the_network_only_if_it_is_federated(
    plan: FederationPlan, make_plan: MakePlan
) -> None:
    without = make_plan(limits=LIMITS)
    assert {name.split("/")[0] for name in first_state(without).arrays} == {"segmenter", "student"}
    arrays = first_state(plan).arrays
    assert same_arrays(trained_in(plan, 3, arrays), first_state(without).arrays)
    assert same_arrays(arrays, first_state(plan).arrays)


def test_self_learning_averages_its_network_and_leaves_the_others(
    plan: FederationPlan, tmp_path: Path
) -> None:
    states: list[RoundState] = []
    _run(plan, tmp_path, on_round=states.append)
    first = first_state(plan).arrays
    expected = trained_in(plan, 1, first)
    others = trained_in(plan, 3, first)
    for number, state in enumerate(states[:2], 1):
        # What the fakes add, averaged by their scans: 1, 2, 3 and 10 of 16.
        step = sum(scans * scans / (7 + number - 2) for scans in SCANS.values()) / 16
        expected = {name: np.asarray(array * step + step) for name, array in expected.items()}
        for name, array in expected.items():
            np.testing.assert_allclose(state.arrays[name], array, rtol=1e-4, atol=1e-6)
        assert same_arrays(trained_in(plan, 3, state.arrays), others)
        assert state.history[-1].bytes_down == bytes_by_network(expected)
        assert state.history[-1].bytes_up == dict.fromkeys(SCANS, bytes_by_network(expected))
    learned = trained_in(plan, 1, states[1].arrays)
    for state in states[2:]:
        assert same_arrays(trained_in(plan, 1, state.arrays), learned)
        assert not same_arrays(trained_in(plan, 3, state.arrays), others)
        # The network travels down with every request, and is not sent up again.
        assert state.history[-1].bytes_down == bytes_by_network(first)
        assert state.history[-1].bytes_up == dict.fromkeys(SCANS, bytes_by_network(others))
    assert list(states[-1].arrays) == list(first)


STRATEGIES: list[dict[str, Any]] = [
    {"name": name} for name in ("FedAvg", "FedProx", "FedAdam", "FedMedian", "Krum")
]


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: strategy["name"])
def test_the_stream_is_the_same_with_self_learning_before_it(
    make_plan: MakePlan, tmp_path: Path, strategy: dict[str, Any]
) -> None:
    with_it = make_plan(**LEARNING, strategy=strategy)
    here = _run(with_it, tmp_path / "here")
    there = _run(make_plan(limits=LIMITS, strategy=strategy), tmp_path / "there")
    assert same_arrays(trained_in(with_it, 3, here.arrays), there.arrays)
    assert same_arrays(here.strategy_arrays, there.strategy_arrays)
    assert [record.stage for record in here.history] == [0, 0, 0, 0, 1]
    assert here.closing is not None
    assert [note.outcome for note in here.closing.notes] == ["scored"] * 4


def test_what_a_round_did_not_ask_for_is_refused_by_name(
    plan: FederationPlan, tmp_path: Path
) -> None:
    bad: dict[tuple[str, int], Misdeed] = {("north", 1): "everything", ("north", 3): "everything"}
    state = _run(plan, tmp_path / "here", bad)
    for number, uninvited in ((1, "segmenter/"), (3, "correspondence/")):
        (dropped,) = state.history[number - 1].dropped
        assert (dropped.hospital, dropped.kind) == ("north", "bad_reply")
        assert f"not asked for ['{uninvited}" in dropped.reason
        assert state.history[number - 1].averaged == ("east", "south", "west")
    nothing: dict[tuple[str, int], Misdeed] = dict.fromkeys(bad, "nothing")
    assert same_arrays(state.arrays, _run(plan, tmp_path / "there", nothing).arrays)


def test_a_reply_without_the_network_is_refused(plan: FederationPlan) -> None:
    asked = trained_in(plan, 1, first_state(plan).arrays)
    note = Note(hospital="north", outcome="self_learned", round=1, num_examples=3)
    check_update(LocalUpdate(dict(asked), note), "north", asked, 1)
    missing = dict(asked)
    del missing["correspondence/log_length"]
    with pytest.raises(Exception, match=r"missing \['correspondence/log_length'\]"):
        check_update(LocalUpdate(missing, note), "north", asked, 1)


def test_too_few_answers_stop_the_run_and_need_one_model_only(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    # Krum itself would need three models; the plain mean of the self-learning needs one.
    plan = make_plan(**LEARNING, strategy={"name": "Krum"})
    bad: dict[tuple[str, int], Misdeed] = {("north", 2): "silent", ("east", 2): "error"}
    message = (
        "round 2: 2 answers and 2 models counted, needed are 3 answers and 1 models for FedAvg"
    )
    with pytest.raises(QuorumError, match=message):
        _run(plan, tmp_path / "here", bad)
    nothing: dict[tuple[str, int], Misdeed] = {(name, 2): "nothing" for name in ("north", "east")}
    record = _run(plan, tmp_path / "there", nothing).history[1]
    assert record.averaged == ("south", "west")


class _Killed(BaseException):
    """The end of the server's process."""


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_resumed_run_is_the_uninterrupted_run(
    make_plan: MakePlan, tmp_path: Path, strategy: str, after: int
) -> None:
    plan = make_plan(**LEARNING, strategy={"name": strategy})

    def kill(state: RoundState) -> None:
        if state.round == after:
            raise _Killed

    with pytest.raises(_Killed):
        _run(plan, tmp_path / "here", on_round=kill)
    saved = load_state(tmp_path / "here", plan)
    assert saved is not None
    assert saved.round == after
    resumed, steady = _run(plan, tmp_path / "here"), _run(plan, tmp_path / "there")
    assert same_arrays(resumed.arrays, steady.arrays)
    assert same_arrays(resumed.strategy_arrays, steady.strategy_arrays)
    assert bool(resumed.strategy_arrays) == (strategy == "FedAdam")
    assert not any("correspondence" in name for name in resumed.strategy_arrays)


def test_the_end_of_the_self_learning_stays_on_disk(plan: FederationPlan, tmp_path: Path) -> None:
    _run(plan, tmp_path)
    kept = sorted(int(path.name.removeprefix("round-")) for path in tmp_path.iterdir())
    # The self-learning ends with round 2, the stages with 4 and 5; 4 and 5 are the last two too.
    assert kept == [2, 4, 5]
