"""The plan of a comparison follows from its scans."""

import numpy as np
import pytest

from common.scans import Geometry, Scan
from simulations.comparison_plan import comparison_plan

IDENTITY = tuple(tuple(row) for row in np.eye(4).tolist())


def scan_of(*shape: int, channels: int = 1) -> Scan:
    i, j, k = shape
    image = np.zeros((channels, *shape), dtype=np.float32)
    return Scan("scan", image, Geometry((i, j, k), IDENTITY), "MR")


def test_the_patch_is_about_the_median_scan() -> None:
    scans = [scan_of(16, 24, 40), scan_of(32, 32, 48), scan_of(64, 40, 56)]
    plan = comparison_plan(scans, 2, 7)
    assert plan.training.patch_size == (32, 32, 48)
    assert plan.training.spacing_mm is None
    assert [label.index for label in plan.labels] == [1, 2]
    assert plan.class_indexes(plan.tasks[0]) == (1, 2)
    assert (plan.seed, plan.channels) == (7, 1)


def test_channels_are_the_scans_own() -> None:
    assert comparison_plan([scan_of(16, 16, 16, channels=3)], 1, 0).channels == 3


@pytest.mark.parametrize("shape", [(1, 9, 8), (9, 2, 8), (40, 50, 3)])
def test_scans_of_few_slices_have_a_plan_too(shape: tuple[int, int, int]) -> None:
    plan = comparison_plan([scan_of(*shape)], 1, 0)
    # Padded to four at least, halved only where four are left.
    assert all(side >= 4 for side in plan.training.patch_size)
