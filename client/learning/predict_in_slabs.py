"""Class probabilities of a scan, one slab of it after another: all of them need not fit in memory.

Each slab is blended from all the windows that reach into it, on the very places where they lie for
the whole scan. So the numbers are those of the whole, to rounding; windows that reach into two
slabs are computed twice.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from client.learning.predict import on_training_grid, slide
from common.plan import FederationPlan
from common.scans import Scan

SLAB_BYTES = 16 * 2**20  # of one copy of a slab's probabilities; there are four at times


@dataclass(frozen=True)
class Slab:
    """Probabilities of the slices from `first` on, along an axis of the scan's own grid."""

    axis: int
    first: int
    probabilities: Float[Tensor, "n i j k"]


def predict_in_slabs(
    network: Module,
    scan: Scan,
    plan: FederationPlan,
    *,
    overlap: float,
    device: torch.device,
    slab_bytes: int = SLAB_BYTES,
) -> Iterator[Slab]:
    """What `predict_probabilities` gives, cut along the axis that most windows follow on.

    Args:
        network: of the plan.
        scan: normalised.
        plan: says how the network was trained.
        overlap: of neighbouring windows, along each axis, as a share of them.
        device: where to compute.
        slab_bytes: of a slab's probabilities, but no slab is thinner than a window.
    """
    settings, shape = plan.training, scan.geometry.shape
    image = on_training_grid(scan, settings, device)
    axis = int(np.argmax(np.divide(image.shape[2:], settings.patch_size)))
    length, patch = image.shape[2 + axis], settings.patch_size[axis]
    slice_bytes = 4 * plan.num_classes * _slice_voxels(shape, image.shape[2:], axis)
    thinnest = math.ceil(patch * shape[axis] / length)
    number = math.ceil(shape[axis] / max(thinnest, slab_bytes // slice_bytes))
    borders = [round(shape[axis] * place / number) for place in range(number + 1)]
    for first, end in pairwise(borders):
        places = _places(first, end, shape[axis], length)
        begin, stop = int(places[0]), math.ceil(places[-1]) + 1
        reach = _reach(begin, stop, length, patch, overlap)
        part = image.narrow(2 + axis, reach.start, len(reach))
        probabilities = slide(network, part, settings, overlap)
        probabilities = probabilities.narrow(2 + axis, begin - reach.start, stop - begin)
        if settings.spacing_mm is not None:
            probabilities = _to_own_grid(probabilities, places - begin, axis, shape)
        yield Slab(axis, first, probabilities[0].cpu())


def _slice_voxels(shape: tuple[int, ...], trained: tuple[int, ...], axis: int) -> int:
    """Of one of the scan's own slices, or of what becomes of it at the training's spacing."""
    return max(math.prod(shape) // shape[axis], math.prod(trained) // shape[axis])


def _places(first: int, end: int, own_length: int, length: int) -> np.ndarray:
    """Where slices of the scan's own grid lie among those of the training's; centres on centres."""
    centres = (np.arange(first, end) + 0.5) * (length / own_length) - 0.5
    places: np.ndarray = np.clip(centres, 0, length - 1)
    return places


def _reach(begin: int, stop: int, length: int, patch: int, overlap: float) -> range:
    """The slices under all windows that reach into `begin` to `stop`, windows lying as MONAI's do.

    MONAI lays them out anew on the part that it is given, and to the same places: the part begins
    where a window begins, and ends where one ends.
    """
    if length <= patch:
        return range(length)
    step = max(int(patch * (1 - overlap)), 1)
    number = math.ceil((length - patch) / step) + 1
    starts = [min(place * step, length - patch) for place in range(number)]
    within = [start for start in starts if start < stop and start + patch > begin]
    return range(within[0], within[-1] + patch)


def _to_own_grid(
    probabilities: Float[Tensor, "1 n a b d"],
    places: np.ndarray,
    axis: int,
    shape: tuple[int, int, int],
) -> Float[Tensor, "1 n i j k"]:
    """Trilinear: along the two other axes as a whole, along the slab's axis at `places`."""
    size = [n if other != axis else probabilities.shape[2 + axis] for other, n in enumerate(shape)]
    if size != list(probabilities.shape[2:]):
        probabilities = F.interpolate(
            probabilities, size=size, mode="trilinear", align_corners=False
        )
    if len(places) == probabilities.shape[2 + axis] and not (places % 1).any():
        return probabilities  # the grids are the same along this axis
    below = torch.from_numpy(places.astype(np.int64)).to(probabilities.device)
    above = (below + 1).clamp(max=probabilities.shape[2 + axis] - 1)
    share = torch.from_numpy((places % 1).astype(np.float32)).to(probabilities.device)
    share = share.reshape([-1 if other == axis else 1 for other in range(3)])
    lower, upper = (probabilities.index_select(2 + axis, index) for index in (below, above))
    return lower.lerp_(upper, share)
