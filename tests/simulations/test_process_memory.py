"""The peak of a process."""

import gc

import numpy as np

from simulations.process_memory import peak_memory


def test_the_peak_is_noticed_after_it_is_over() -> None:
    gc.collect()  # what earlier tests left must not be given back in between
    with peak_memory() as megabytes:
        block = np.ones(64 * 2**20, np.uint8)
        del block
    assert 50 < megabytes[0] < 100
    with peak_memory() as megabytes:
        pass
    assert megabytes[0] < 10  # an earlier peak is no part of it
