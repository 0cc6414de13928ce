"""Volumes to RAS and back: axis flips and permutations only, so no voxel value is ever changed."""

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from jaxtyping import Float

Affine = Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class OriginalGeometry:
    """Shape and affine of a volume as its file has them, so that results can be written back."""

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]


def to_ras(array: np.ndarray, affine: Affine) -> tuple[np.ndarray, Affine]:
    """(..., I, J, K) in file order to the nearest RAS order, with the affine to match."""
    orientation = nib.orientations.io_orientation(affine)
    shape = array.shape[-3:]
    inverse = nib.orientations.inv_ornt_aff(orientation, shape)
    return _apply(array, orientation), affine @ inverse


def from_ras(array: np.ndarray, original: OriginalGeometry) -> np.ndarray:
    """(..., I, J, K) in RAS order back to the order of the file it came from."""
    orientation = nib.orientations.io_orientation(np.asarray(original.affine))
    ras = np.array([[0, 1], [1, 1], [2, 1]])
    return _apply(array, nib.orientations.ornt_transform(ras, orientation))


def _apply(array: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """Applies nibabel's orientation to the last three axes."""
    last_first = np.moveaxis(array, (-3, -2, -1), (0, 1, 2))
    turned = nib.orientations.apply_orientation(last_first, orientation)
    return np.moveaxis(turned, (0, 1, 2), (-3, -2, -1))
