"""The parts of the scale bench that need no Ray."""

import gc

import numpy as np
import pytest

from server.round_state import RoundRecord, RoundState
from simulations.bench_hospitals import COUNTS, _check_complete, peak_memory, tiny_scenario


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


def test_the_peak_is_noticed_after_it_is_over() -> None:
    gc.collect()  # what earlier tests left must not be given back in between
    with peak_memory() as megabytes:
        block = np.ones(64 * 2**20, np.uint8)
        del block
    assert 50 < megabytes[0] < 100
    with peak_memory() as megabytes:
        pass
    assert megabytes[0] < 10  # an earlier peak is no part of it
