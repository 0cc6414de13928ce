"""Distances from a painted slice."""

import numpy as np
import pytest

from client.propagation.slice_distance import along, distance_slices
from common.scans import SliceRef


def test_distances_are_counted_in_slices_both_ways() -> None:
    assert distance_slices(SliceRef("scan", 1, 2), 5).tolist() == [2, 1, 0, 1, 2]
    assert distance_slices(SliceRef("scan", 0, 0), 1).tolist() == [0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_value_per_slice_lies_along_its_axis(axis: int) -> None:
    values = np.arange(4, dtype=np.float32)
    lined_up = np.ones((4, 4, 4)) * along(axis, values)
    for index in range(4):
        assert (lined_up[SliceRef("scan", axis, index).selection] == index).all()


def test_truth_values_stay_what_they_are() -> None:
    assert along(2, np.array([True, False])).dtype == bool
