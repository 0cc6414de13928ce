"""Rounds in which hospitals send half-precision differences instead of their models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fake_hospitals import SCANS, FakeHospitals

from common.plan import FederationPlan
from common.updates import Arrays
from common.wire import bytes_by_network
from server.report import communication
from server.round_state import RoundState
from server.rounds import first_state, run_federation

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 2, "deadline_s": 0.1, "join_deadline_s": 0.1}


def _run(plan: FederationPlan, folder: Path, hospitals: FakeHospitals | None = None) -> RoundState:
    grid = (hospitals or FakeHospitals(NAMES)).grid()
    return run_federation(grid, plan, folder, lambda _: None)


def _most_apart(one: Arrays, other: Arrays) -> float:
    return max(float(np.abs(one[name] - other[name]).max()) for name in one)


def test_the_mean_is_that_of_whole_models_within_the_rounding(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    whole = _run(make_plan(limits=LIMITS), tmp_path / "whole")
    halves = _run(make_plan(limits=LIMITS, wire="float16-deltas"), tmp_path / "halves")
    # Fakes multiply and add, so all steps are of the size of the weights, at most 2 here.
    largest = max(float(np.abs(array).max()) for array in whole.arrays.values())
    assert 0 < _most_apart(whole.arrays, halves.arrays) < 3 * 2**-11 * largest
    for name, array in halves.arrays.items():
        assert (array.dtype, array.shape) == (whole.arrays[name].dtype, whole.arrays[name].shape)
    for one, other in zip(whole.history, halves.history, strict=True):
        assert other.update_norms == pytest.approx(one.update_norms, rel=1e-2)


def test_bytes_up_are_counted_as_they_came_and_those_down_are_whole(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(limits=LIMITS, wire="float16-deltas")
    state = _run(plan, tmp_path)
    down = bytes_by_network(first_state(plan).arrays)
    up = {network: size // 2 for network, size in down.items()}
    for record in state.history:
        assert record.bytes_down == down
        assert record.bytes_up == dict.fromkeys(SCANS, up)
    counted = communication(state)
    assert counted.bytes_up_by_network == up
    assert counted.bytes_down_by_network == down
    assert counted.bytes_up_per_site_round * 2 == counted.bytes_down_per_site_round


@pytest.mark.parametrize(
    ("misdeed", "said"), [("nan", "expected finite numbers"), ("garbage", "expected a reply")]
)
def test_a_hospital_that_lies_is_dropped_and_named(
    make_plan: MakePlan, tmp_path: Path, misdeed: str, said: str
) -> None:
    plan = make_plan(limits=LIMITS, wire="float16-deltas")
    hospitals = FakeHospitals(NAMES, {("west", 1): misdeed})  # type: ignore[dict-item]
    state = _run(plan, tmp_path, hospitals)
    (dropped,) = state.history[0].dropped
    assert (dropped.hospital, dropped.kind) == ("west", "bad_reply")
    assert said in dropped.reason
    assert sorted(state.history[0].bytes_up) == ["east", "north", "south"]
    assert state.history[1].averaged == ("east", "north", "south", "west")


def test_a_resumed_run_is_the_same_run(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(limits=LIMITS, wire="float16-deltas")
    whole = _run(plan, tmp_path / "whole")

    class StoppedError(Exception):
        pass

    def stop(state: RoundState) -> None:
        if state.round == 2:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_federation(FakeHospitals(NAMES).grid(), plan, tmp_path / "torn", stop)
    resumed = _run(plan, tmp_path / "torn")
    assert _most_apart(whole.arrays, resumed.arrays) == 0
