"""The part of a scan around a structure: in a large volume, all that a quick look needs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from common.scans import Geometry, LabelMap, Scan, SliceAnnotation, SliceRef


@dataclass(frozen=True)
class Crop:
    """A box of voxels: where it begins along I, J, K, and where it ends, exclusive."""

    first: tuple[int, int, int]
    last: tuple[int, int, int]

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Indexes the box out of the last three axes: `volume[..., *crop.box]`."""
        i, j, k = (slice(f, e) for f, e in zip(self.first, self.last, strict=True))
        return i, j, k

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along I, J, K."""
        i, j, k = (e - f for f, e in zip(self.first, self.last, strict=True))
        return i, j, k

    def of_scan(self, scan: Scan) -> Scan:
        """The scan's part; its first voxel keeps its place in the patient."""
        affine = np.asarray(scan.geometry.affine)
        origin = affine @ (*self.first, 1)
        moved = np.column_stack([affine[:, :3], origin])
        geometry = Geometry(self.shape, tuple(tuple(float(n) for n in row) for row in moved))
        return replace(scan, image=np.asarray(scan.image[:, *self.box]), geometry=geometry)

    def of_labels(self, labels: LabelMap) -> LabelMap:
        """The label map's part."""
        return replace(
            labels,
            soft=np.asarray(labels.soft[:, *self.box]),
            weight=np.asarray(labels.weight[self.box]),
            expert=np.asarray(labels.expert[self.box]),
        )

    def of_annotations(self, annotations: Sequence[SliceAnnotation]) -> list[SliceAnnotation]:
        """The painted slices that lie inside, cut to the box and numbered from its first slice."""
        found = []
        for one in annotations:
            axis, index = one.ref.axis, one.ref.index
            if self.first[axis] <= index < self.last[axis]:
                rows, columns = (box for other, box in enumerate(self.box) if other != axis)
                ref = SliceRef(one.ref.scan_id, axis, index - self.first[axis])
                found.append(replace(one, ref=ref, mask=one.mask[rows, columns]))
        return found


def around(labels: UInt8[np.ndarray, "i j k"], margin: Sequence[int]) -> Crop:
    """The box of all that is labelled, with a margin of voxels; without any label all of it."""
    shape = labels.shape
    spans = []
    for axis in range(3):
        plane = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(labels.any(axis=plane))
        if len(found) == 0:
            return Crop((0, 0, 0), (shape[0], shape[1], shape[2]))
        first = max(int(found[0]) - margin[axis], 0)
        last = min(int(found[-1]) + 1 + margin[axis], shape[axis])
        spans.append((first, last))
    (i, ei), (j, ej), (k, ek) = spans
    return Crop((i, j, k), (ei, ej, ek))
