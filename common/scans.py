"""The domain's values: a scan, a slice of it, what a clinician painted there, a volume of labels.

All arrays are in RAS order: axis 0 runs to the patient's right to left (sagittal slices), axis 1
back to front (coronal), axis 2 feet to head (axial). Letters: C channels, I J K voxels, N classes
with the background first.
"""

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float, UInt8

Modality = Literal["MR", "CT"]
Plane = Literal["sagittal", "coronal", "axial"]
LabelSource = Literal["expert", "propagated", "pseudo", "synthetic"]

SCAN_ID = re.compile(r"(scan-[0-9a-f]{16})(?:-[A-Za-z0-9][A-Za-z0-9_-]{0,47})?")
AXIS_OF_PLANE: dict[Plane, int] = {"sagittal": 0, "coronal": 1, "axial": 2}


@dataclass(frozen=True)
class Geometry:
    """Where the voxels of a volume lie in the patient.

    Attributes:
        shape: voxels along I, J, K.
        affine: 4 x 4, row by row, voxel index to RAS millimetres.
    """

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along I, J, K."""
        matrix = np.asarray(self.affine)[:3, :3]
        spacing = np.sqrt((matrix**2).sum(axis=0))
        return (float(spacing[0]), float(spacing[1]), float(spacing[2]))


def volume_of(scan_id: str) -> str:
    """The id of the volume that a scan is.

    For the first task that it serves at a hospital a scan has its volume's id; for each further one
    the task's name follows, since there it is normalised, painted and judged by itself.
    """
    found = SCAN_ID.fullmatch(scan_id)
    return found[1] if found else scan_id


@dataclass(frozen=True)
class Scan:
    """A normalised volume. `image` is (C, I, J, K), RAS; `scan_id` is a pseudonym."""

    scan_id: str
    image: Float[np.ndarray, "c i j k"]
    geometry: Geometry
    modality: Modality


@dataclass(frozen=True)
class SliceRef:
    """One slice of one scan: `axis` 0 sagittal, 1 coronal, 2 axial; `index` along it."""

    scan_id: str
    axis: int
    index: int

    @property
    def selection(self) -> tuple[slice | int, ...]:
        """Indexes the slice out of the last three axes: `volume[..., *ref.selection]`."""
        everything: list[slice | int] = [slice(None)] * 3
        everything[self.axis] = self.index
        return tuple(everything)


@dataclass(frozen=True)
class SliceAnnotation:
    """What a clinician painted on one slice.

    Attributes:
        ref: the slice.
        mask: (rows, columns), the plan's label index per pixel, 0 background.
        looked_for: label indexes that the clinician looked for; one that is looked for and absent
            from the mask is background on this slice, one that is not looked for is unknown.
        annotator: pseudonym.
        seconds_spent: time at the brush.
    """

    ref: SliceRef
    mask: UInt8[np.ndarray, "rows columns"]
    looked_for: tuple[int, ...]
    annotator: str
    seconds_spent: float


def likeliest(
    classes: tuple[int, ...], soft: Float[np.ndarray, "n i j k"]
) -> UInt8[np.ndarray, "i j k"]:
    """The likeliest label index of every voxel; `classes` are the channels after the background."""
    lookup = np.array([0, *classes], dtype=np.uint8)
    result: UInt8[np.ndarray, "i j k"] = lookup[soft.argmax(axis=0)]
    return result


@dataclass(frozen=True)
class LabelMap:
    """Labels of one volume, with how far each voxel is to be trusted.

    Attributes:
        classes: label indexes of the channels after the background, ascending.
        soft: (1 + len(classes), I, J, K), non-negative, sums to one where weight > 0.
        weight: (I, J, K) in [0, 1]; 0 means that nothing is known.
        expert: (I, J, K), True on voxels that a person labelled: all `classes` are known there.
        spread: label indexes known on all other voxels with weight > 0; the rest is unknown there.
        source: where the labels away from the expert voxels come from.
    """

    classes: tuple[int, ...]
    soft: Float[np.ndarray, "n i j k"]
    weight: Float[np.ndarray, "i j k"]
    expert: Bool[np.ndarray, "i j k"]
    spread: tuple[int, ...]
    source: LabelSource

    def hard(self) -> UInt8[np.ndarray, "i j k"]:
        """The likeliest label index of every voxel (0 where all is background)."""
        return likeliest(self.classes, self.soft)
