"""What lies on the scan's grid comes back voxel for voxel, however it was turned or cut."""

from itertools import permutations

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.annotation.same_grid import lay_on
from common.errors import BadScanError
from common.scans import Geometry

SHAPE = (6, 5, 7)
PAINTED = np.random.default_rng(0).integers(0, 4, size=SHAPE).astype(np.uint8)
ORDERS = [
    np.column_stack([order, signs])
    for order in permutations(range(3))
    for signs in [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)]
]


def _geometry(degrees: list[float], spacing_mm: list[float], origin_mm: list[float]) -> Geometry:
    affine = np.eye(4)
    turn = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    affine[:3, :3], affine[:3, 3] = turn * spacing_mm, origin_mm
    return Geometry(SHAPE, tuple(tuple(float(n) for n in row) for row in affine))


STRAIGHT = _geometry([0, 0, 0], [1, 1, 1], [0, 0, 0])


@given(
    degrees=st.lists(st.floats(-40, 40), min_size=3, max_size=3),
    spacing_mm=st.lists(st.sampled_from([0.5, 0.9375, 1.2, 6.5]), min_size=3, max_size=3),
    origin_mm=st.lists(st.floats(-300, 300), min_size=3, max_size=3),
    order=st.sampled_from(ORDERS),
    data=st.data(),
)
def test_a_turned_and_cut_volume_comes_back_to_its_place(
    degrees: list[float],
    spacing_mm: list[float],
    origin_mm: list[float],
    order: np.ndarray,
    data: st.DataObject,
) -> None:
    geometry = _geometry(degrees, spacing_mm, origin_mm)
    starts = [data.draw(st.integers(0, n - 1)) for n in SHAPE]
    box = tuple(
        slice(start, data.draw(st.integers(start + 1, n)))
        for start, n in zip(starts, SHAPE, strict=True)
    )
    affine = np.asarray(geometry.affine).copy()
    affine[:3, 3] += affine[:3, :3] @ starts
    turned = nib.Nifti1Image(PAINTED[box], affine).as_reoriented(order)
    # Single precision, as NIfTI files have it.
    written = turned.affine.astype(np.float32).astype(float)
    found, place = lay_on(geometry, np.asarray(turned.dataobj), written)
    assert place == box
    np.testing.assert_array_equal(found, PAINTED[box])


def test_a_larger_volume_is_cut_to_the_scan() -> None:
    larger = np.zeros((10, 9, 11), dtype=np.uint8)
    larger[2:8, 2:7, 2:9] = PAINTED
    affine = np.eye(4)
    affine[:3, 3] = -2
    found, place = lay_on(STRAIGHT, larger, affine)
    assert place == (slice(0, 6), slice(0, 5), slice(0, 7))
    np.testing.assert_array_equal(found, PAINTED)


@pytest.mark.parametrize("shift", [(-1, 0, 0), (0, 0, 3), (40, 0, 0)])
def test_what_is_painted_outside_the_scan_is_refused(shift: tuple[int, int, int]) -> None:
    affine = np.eye(4)
    affine[:3, 3] = shift
    with pytest.raises(
        BadScanError, match=r"\d+ painted voxels lie outside the scan of \(6, 5, 7\)"
    ):
        lay_on(STRAIGHT, PAINTED, affine)


def test_one_slice_needs_no_spacing_of_its_own() -> None:
    affine = np.diag([1.0, 5.0, 1, 1])
    affine[1, 3] = 3
    found, place = lay_on(STRAIGHT, PAINTED[:, 3:4], affine)
    assert place == (slice(0, 6), slice(3, 4), slice(0, 7))
    np.testing.assert_array_equal(found, PAINTED[:, 3:4])


@pytest.mark.parametrize(
    ("change", "apart"),
    [
        (np.diag([1.1, 1, 1, 1]), "0.5"),
        (np.array([[1, 0, 0, 0.4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "0.4"),
        (np.array([[1, 0.02, 0, 0], [-0.02, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "0.128"),
    ],
)
def test_another_grid_is_refused_with_both_in_numbers(change: np.ndarray, apart: str) -> None:
    wanted = rf"up to {apart} mm away: it has 6 x 5 x 7 voxels of .* the scan 6 x 5 x 7 voxels of "
    with pytest.raises(BadScanError, match=wanted + r"1 x 1 x 1 mm from \(0, 0, 0\) mm; paint on"):
        lay_on(STRAIGHT, PAINTED, change)
