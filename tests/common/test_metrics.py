"""The scores against counting by hand and against all pairs of surface voxels."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from common.metrics import (
    StructureScore,
    dice,
    hausdorff95_mm,
    mean_per_class,
    score_labels,
    score_structure,
)

Spacing = tuple[float, float, float]
UNIT: Spacing = (1.0, 1.0, 1.0)
MASKS = hnp.arrays(np.bool_, (4, 3, 5))


def _mask(*voxels: tuple[int, int, int], shape: tuple[int, int, int] = (9, 9, 9)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    for voxel in voxels:
        mask[voxel] = True
    return mask


def test_dice_by_hand() -> None:
    prediction = np.array([1, 1, 1, 0, 0], bool)
    truth = np.array([0, 1, 1, 1, 1], bool)
    assert dice(prediction, truth) == 2 * 2 / (3 + 4)


def test_dice_of_two_empty_masks_is_none() -> None:
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) is None


@given(mask=MASKS, other=MASKS)
def test_dice_is_symmetric_and_one_only_for_equals(mask: np.ndarray, other: np.ndarray) -> None:
    overlap = dice(mask, other)
    assert overlap == dice(other, mask)
    assert overlap is None or (overlap == 1.0) == bool((mask == other).all())


def test_hausdorff_of_two_voxels_is_their_distance_in_mm() -> None:
    # 3 voxels of 0.5 mm along I and 4 of 2 mm along K.
    distance = hausdorff95_mm(_mask((1, 1, 1)), _mask((4, 1, 5)), (0.5, 7.0, 2.0))
    assert distance == pytest.approx(np.hypot(3 * 0.5, 4 * 2.0))


@pytest.mark.parametrize(("axis", "step_mm"), [(0, 0.5), (1, 1.5), (2, 4.0)])
def test_hausdorff_of_a_shifted_cube_is_the_shift(axis: int, step_mm: float) -> None:
    cube = np.zeros((12, 12, 12), bool)
    cube[3:6, 3:6, 3:6] = True
    shifted = np.roll(cube, 2, axis)
    # The far face (9 of 26 surface voxels, more than 5 %) is 2 voxels away, nothing is further.
    assert hausdorff95_mm(cube, shifted, (0.5, 1.5, 4.0)) == pytest.approx(2 * step_mm)


def test_hausdorff_takes_the_larger_direction() -> None:
    # All of the voxel lies on the line, but the line's far end is 8 voxels from the voxel.
    line = _mask(*((i, 0, 0) for i in range(9)))
    voxel = _mask((0, 0, 0))
    expected = np.percentile(np.arange(9), 95)
    assert hausdorff95_mm(line, voxel, UNIT) == pytest.approx(expected)
    assert hausdorff95_mm(voxel, line, UNIT) == pytest.approx(expected)


def test_hausdorff_counts_the_arrays_edge_as_outside() -> None:
    # The whole array against its central voxel: were the edge inside, no voxel of the block would
    # be on the surface. On the surface are 26 voxels: 6 at 1, 12 at sqrt 2, 8 at sqrt 3.
    block, centre = np.ones((3, 3, 3), bool), _mask((1, 1, 1), shape=(3, 3, 3))
    distances = np.sqrt([1] * 6 + [2] * 12 + [3] * 8)
    assert hausdorff95_mm(block, centre, UNIT) == pytest.approx(np.percentile(distances, 95))


def test_hausdorff_is_none_where_a_surface_is_missing() -> None:
    some, none = _mask((1, 1, 1)), _mask()
    assert hausdorff95_mm(some, none, UNIT) is None
    assert hausdorff95_mm(none, some, UNIT) is None
    assert hausdorff95_mm(none, none, UNIT) is None


def _surface_mm(mask: np.ndarray, spacing: Spacing) -> np.ndarray:
    """Positions of the voxels of which one of six neighbours is outside, voxel by voxel."""
    found = []
    for voxel in np.argwhere(mask):
        for axis in range(3):
            for step in (-1, 1):
                beside = voxel.copy()
                beside[axis] += step
                within = 0 <= beside[axis] < mask.shape[axis]
                if not within or not mask[tuple(beside)]:
                    found.append(tuple(voxel))
    return np.array(sorted(set(found))) * np.array(spacing)


@given(
    prediction=MASKS,
    truth=MASKS,
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 1.25, 3.0])] * 3),
)
def test_hausdorff_equals_all_pairs(
    prediction: np.ndarray, truth: np.ndarray, spacing: Spacing
) -> None:
    assume(prediction.any() and truth.any())
    here, there = _surface_mm(prediction, spacing), _surface_mm(truth, spacing)
    pairs = np.linalg.norm(here[:, None] - there[None], axis=-1)
    expected = max(np.percentile(pairs.min(axis=1), 95), np.percentile(pairs.min(axis=0), 95))
    assert hausdorff95_mm(prediction, truth, spacing) == pytest.approx(expected)


def test_a_missed_structure_counts_as_zero() -> None:
    assert score_structure(_mask(), _mask((1, 1, 1)), UNIT) == StructureScore(0.0, None, True)


def test_a_structure_that_is_not_there_and_was_found_is_not_missed() -> None:
    assert score_structure(_mask((1, 1, 1)), _mask(), UNIT) == StructureScore(0.0, None, False)


def test_a_structure_absent_from_both_is_left_out() -> None:
    assert score_structure(_mask(), _mask(), UNIT) is None
    truth = np.zeros((3, 3, 3), np.uint8)
    prediction = truth.copy()
    truth[0, 0, 0], truth[0, 0, 1], prediction[0, 0, 0] = 1, 3, 1
    scores = score_labels(prediction, truth, (1, 2, 3), UNIT)
    assert scores == {1: StructureScore(1.0, 0.0, False), 3: StructureScore(0.0, None, True)}


def test_mean_per_class_is_over_the_cases_that_have_the_class() -> None:
    cases = [
        {1: StructureScore(0.5, 1.0, False), 2: StructureScore(0.25, None, False)},
        {1: StructureScore(0.0, None, True)},
        {},
    ]
    assert mean_per_class(cases) == {1: 0.25, 2: 0.25}
    assert mean_per_class([]) == {}
