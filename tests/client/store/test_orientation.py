"""To RAS and back: no voxel changes its value or its place in the patient."""

import tempfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.store.orientation import OriginalGeometry, from_ras, to_ras
from client.store.volume_files import read_volume, write_volume_like

ANGLES = st.floats(-180, 180)


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """A rotation, flips, a permutation and an anisotropic spacing in mm, with an origin."""
    angles = [draw(ANGLES) for _ in range(3)]
    rotation = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    order = draw(st.permutations(range(3)))
    signs = [draw(st.sampled_from([-1.0, 1.0])) for _ in range(3)]
    spacing = [draw(st.floats(0.2, 6)) for _ in range(3)]
    affine = np.eye(4)
    affine[:3, :3] = (rotation * signs * spacing)[:, order]
    affine[:3, 3] = [draw(st.floats(-200, 200)) for _ in range(3)]
    return affine


def _original(array: np.ndarray, affine: np.ndarray) -> OriginalGeometry:
    i, j, k = array.shape[-3:]
    return OriginalGeometry((i, j, k), tuple(tuple(map(float, row)) for row in affine))


VOLUME = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)


@settings(max_examples=100, deadline=None)
@given(affines())
def test_back_and_forth_is_exact(affine: np.ndarray) -> None:
    ras, _ = to_ras(VOLUME, affine)
    np.testing.assert_array_equal(from_ras(ras, _original(VOLUME, affine)), VOLUME)


@settings(max_examples=100, deadline=None)
@given(affines(), st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(0, 4)))
def test_a_fiducial_stays_where_it_is(affine: np.ndarray, voxel: tuple[int, int, int]) -> None:
    ras, ras_affine = to_ras(VOLUME, affine)
    (moved,) = np.argwhere(ras == VOLUME[voxel])
    before, after = affine @ [*voxel, 1], ras_affine @ [*moved, 1]
    np.testing.assert_allclose(after, before, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(affines())
def test_the_result_is_the_nearest_ras_order(affine: np.ndarray) -> None:
    _, ras_affine = to_ras(VOLUME, affine)
    nearest = nib.orientations.io_orientation(ras_affine)
    np.testing.assert_array_equal(nearest, [[0, 1], [1, 1], [2, 1]])


def test_channels_stay_in_front() -> None:
    channels = np.stack([VOLUME, VOLUME + 100])
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    both, _ = to_ras(channels, affine)
    np.testing.assert_array_equal(both[1], to_ras(VOLUME, affine)[0] + 100)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@settings(max_examples=10, deadline=None)
@given(affine=affines())
def test_a_written_file_reads_the_same(suffix: str, affine: np.ndarray) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"volume{suffix}"
        write_volume_like(path, to_ras(VOLUME, affine)[0], _original(VOLUME, affine))
        found = read_volume([path])
        np.testing.assert_array_equal(found.array[0], VOLUME)
        # NIfTI keeps the affine in single precision.
        np.testing.assert_allclose(found.affine, affine, rtol=1e-6, atol=1e-4)
        assert [p.name for p in Path(folder).iterdir()] == [path.name]
