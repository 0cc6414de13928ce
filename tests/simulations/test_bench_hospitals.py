"""The parts of the scale bench that need no Ray."""

import pytest

from server.round_state import RoundRecord, RoundState
from simulations.bench_hospitals import COUNTS, _check_complete, tiny_scenario


def test_it_goes_to_64_hospitals_that_all_must_answer() -> None:
    assert COUNTS[-1] == 64
    for count in COUNTS:
        plan = tiny_scenario(count).plan
        assert (plan.limits.hospitals, plan.limits.quorum) == (count, count)


def test_a_run_that_left_a_hospital_out_is_no_row() -> None:
    record = RoundRecord(round=1, stage=0, averaged=("a",))
    state = RoundState(1, {}, {}, (record,))
    _check_complete(state, 1)
    with pytest.raises(AssertionError):
        _check_complete(state, 2)
