"""The domain's values and their arithmetic."""

import numpy as np
import pytest

from common.scans import AXIS_OF_PLANE, Geometry, LabelMap, SliceRef, volume_of


def test_spacing_is_the_length_of_the_affines_columns() -> None:
    # A rotation by 90 degrees around K: 2 mm along I, 3 mm along J, 4 mm along K.
    affine = (
        (0.0, -3.0, 0.0, 10.0),
        (2.0, 0.0, 0.0, 20.0),
        (0.0, 0.0, 4.0, 30.0),
        (0.0, 0.0, 0.0, 1.0),
    )
    assert Geometry((5, 6, 7), affine).spacing_mm == pytest.approx((2.0, 3.0, 4.0))


@pytest.mark.parametrize(
    ("scan_id", "volume"),
    [
        ("scan-0123456789abcdef", "scan-0123456789abcdef"),
        ("scan-0123456789abcdef-second_task", "scan-0123456789abcdef"),
        ("scan-0123456789abcdef-a-b", "scan-0123456789abcdef"),
        ("scan-0123456789abcdef0", "scan-0123456789abcdef0"),
        ("scan-0123456789abcdef-", "scan-0123456789abcdef-"),
        ("elsewhere", "elsewhere"),
    ],
)
def test_a_scans_volume_is_its_id_without_the_task(scan_id: str, volume: str) -> None:
    assert volume_of(scan_id) == volume


@pytest.mark.parametrize("axis", AXIS_OF_PLANE.values())
def test_the_selection_takes_one_slice_out_of_the_last_three_axes(axis: int) -> None:
    volume = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    ref = SliceRef("a", axis, 2)
    np.testing.assert_array_equal(volume[..., *ref.selection], np.take(volume, 2, axis=axis + 1))


def test_hard_labels_are_the_plans_indexes_of_the_likeliest_class() -> None:
    soft = np.zeros((3, 1, 1, 4), np.float32)
    soft[:, 0, 0, 0] = (0.6, 0.3, 0.1)
    soft[:, 0, 0, 1] = (0.2, 0.5, 0.3)
    soft[:, 0, 0, 2] = (0.2, 0.3, 0.5)
    nothing = np.zeros((1, 1, 4), np.float32)
    labels = LabelMap((2, 7), soft, nothing, nothing.astype(bool), (), "expert")
    assert labels.hard().tolist() == [[[0, 2, 7, 0]]]
