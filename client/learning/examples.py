"""What one labelled scan offers to training, and the patches cut from it.

Labels travel through cutting, turning and scaling as probabilities already multiplied by their
weight, with the part that a person painted beside them. Interpolation then mixes known voxels by
their weight, and unknown ones never leak in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from client.learning.augmentation import Change, Size, apply_change, region_for
from common.scans import LabelMap, Scan

Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Example:
    """A scan with its labels. `num_classes` counts the plan's labels and the background."""

    scan: Scan
    labels: LabelMap
    num_classes: int


def unlabelled(scan: Scan, num_classes: int, *, weight: float = 0.0) -> Example:
    """A scan of which nothing is known; with a `weight` all of it counts as background."""
    shape = scan.geometry.shape
    # One number, seen everywhere: a volume is not filled for each patch.
    soft = np.broadcast_to(np.float32(1), (1, *shape))
    nobody = np.broadcast_to(np.bool_(False), shape)
    everywhere = np.broadcast_to(np.float32(weight), shape)
    return Example(scan, LabelMap((), soft, everywhere, nobody, (), "pseudo"), num_classes)


@dataclass(frozen=True)
class Patch:
    """A training patch.

    Attributes:
        image: (C, I, J, K).
        target: (N, I, J, K) class probabilities, summing to one where weight > 0.
        weight: (I, J, K) trust in [0, 1]; less than was given beside voxels of which nothing is
            known, where the patch was turned.
        painted: (I, J, K), True where most of what is known a person painted.
        known: (N, I, J, K), False for classes of which nothing is known there.
    """

    image: Float[Tensor, "c i j k"]
    target: Float[Tensor, "n i j k"]
    weight: Float[Tensor, "i j k"]
    painted: Bool[Tensor, "i j k"]
    known: Bool[Tensor, "n i j k"]


def draw_centre(
    example: Example, size: Size, training_mm: Spacing | None, rng: np.random.Generator
) -> tuple[float, ...]:
    """The centre, in scan voxels, of a patch of `size` training voxels around a labelled voxel.

    Half of the time that voxel is foreground, where there is any. Along an axis that the patch
    covers whole, the centre is the volume's.
    """
    labels = example.labels
    trusted = labels.weight > 0
    if rng.random() < 0.5:
        inside = trusted & (np.asarray(labels.soft[0]) < 0.5)
        trusted = inside if inside.any() else trusted
    # Numbers of voxels, not their places: for all voxels of a large volume those take gigabytes.
    candidates = np.flatnonzero(trusted)
    shape = labels.weight.shape
    if len(candidates) == 0:
        return tuple((n - 1) / 2 for n in shape)
    voxel = np.unravel_index(candidates[rng.integers(len(candidates))], shape)
    covered = [s * z for s, z in zip(size, _zoom(example.scan, training_mm), strict=True)]
    return tuple(
        _centre_along(int(v), n, s, rng) for v, n, s in zip(voxel, shape, covered, strict=True)
    )


def _centre_along(voxel: int, length: int, size: float, rng: np.random.Generator) -> float:
    """A centre along one axis so that the patch holds `voxel`, mostly inside the volume."""
    if size >= length:
        return (length - 1) / 2
    # A patch may hang over the edge a little, as the sliding window does when it predicts.
    overhang, margin = 2, min(2, size // 4)
    lowest = max(voxel - size / 2 + margin, size / 2 - overhang)
    highest = min(voxel + size / 2 - margin, length - 1 - size / 2 + overhang)
    return float(rng.uniform(lowest, highest))


def cut_patch(
    example: Example,
    centre: Sequence[float],
    size: Size,
    change: Change,
    training_mm: Spacing | None,
) -> Patch:
    """The patch of `size` voxels around `centre`, changed.

    `training_mm` is the spacing to train at; None keeps the scan's own voxels.
    """
    zoom = _zoom(example.scan, training_mm)
    region = [max(1, round(n * z)) for n, z in zip(region_for(size, change), zoom, strict=True)]
    corner = [round(c - (n - 1) / 2) for c, n in zip(centre, region, strict=True)]
    image = torch.from_numpy(_cut_image(np.asarray(example.scan.image), corner, region))
    labels = torch.from_numpy(_cut_labels(example.labels, example.num_classes, corner, region))
    if training_mm is not None:
        grid = region_for(size, change)
        image, labels = (_resize(t, grid) for t in (image, labels))
    image, labels = apply_change(image, labels, change, size)
    return _to_patch(image, labels, example)


def _cut_labels(
    labels: LabelMap, num_classes: int, corner: list[int], region: list[int]
) -> Float[np.ndarray, "m i j k"]:
    """Weight times probability per plan class, then the painted part of the weight; cut out."""
    inside, before, after = _overlap(labels.weight.shape, corner, region)
    weight = np.asarray(labels.weight[inside], dtype=np.float32)
    result = np.zeros((num_classes + 1, *weight.shape), dtype=np.float32)
    channels = [0, *labels.classes]
    result[channels] = np.asarray(labels.soft[:, *inside], dtype=np.float32) * weight
    result[-1] = weight * labels.expert[inside]
    return np.pad(result, [(0, 0), *zip(before, after, strict=True)])


def _cut_image(
    image: Float[np.ndarray, "c i j k"], corner: list[int], region: list[int]
) -> Float[np.ndarray, "c a b d"]:
    """The region from `corner` on; where it hangs over, the volume's edge is repeated."""
    inside, before, after = _overlap(image.shape[1:], corner, region)
    piece = np.asarray(image[:, *inside], dtype=np.float32)
    return np.pad(piece, [(0, 0), *zip(before, after, strict=True)], mode="edge")


def _overlap(
    shape: Sequence[int], corner: list[int], region: list[int]
) -> tuple[tuple[slice, ...], list[int], list[int]]:
    """The part of a region inside a volume, and what is missing before and after it."""
    first = [min(max(c, 0), n - 1) for c, n in zip(corner, shape, strict=True)]
    last = [
        min(max(c + r, f + 1), n) for c, r, f, n in zip(corner, region, first, shape, strict=True)
    ]
    inside = tuple(slice(f, e) for f, e in zip(first, last, strict=True))
    before = [f - c if c < f else 0 for c, f in zip(corner, first, strict=True)]
    after = [r - (e - f) - b for r, e, f, b in zip(region, last, first, before, strict=True)]
    return inside, before, after


def _zoom(scan: Scan, training_mm: Spacing | None) -> tuple[float, float, float]:
    """Scan voxels per training voxel along each axis."""
    if training_mm is None:
        return (1.0, 1.0, 1.0)
    ratio = [t / s for t, s in zip(training_mm, scan.geometry.spacing_mm, strict=True)]
    return (ratio[0], ratio[1], ratio[2])


def _resize(tensor: Float[Tensor, "c i j k"], size: Size) -> Float[Tensor, "c a b d"]:
    return F.interpolate(tensor[None], size=size, mode="trilinear", align_corners=False)[0]


def _to_patch(
    image: Float[Tensor, "c i j k"], labels: Float[Tensor, "m i j k"], example: Example
) -> Patch:
    weighted, painted = labels[:-1], labels[-1]
    weight = weighted.sum(0).clamp(0, 1)
    target = weighted / weighted.sum(0).clamp_min(1e-6)
    everywhere = torch.zeros(example.num_classes, dtype=torch.bool)
    everywhere[[0, *example.labels.spread]] = True
    on_painted = torch.zeros(example.num_classes, dtype=torch.bool)
    on_painted[[0, *example.labels.classes]] = True
    is_painted = painted >= 0.5 * weight
    known = torch.where(
        is_painted, on_painted[:, None, None, None], everywhere[:, None, None, None]
    )
    return Patch(image, target, weight, is_painted & (weight > 0), known)
