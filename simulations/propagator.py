"""What a method of the comparison gets and gives."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from common.scans import Scan, SliceAnnotation, likeliest


@dataclass(frozen=True)
class SoftLabels:
    """What a propagator makes of one painted slice.

    Attributes:
        classes: label indexes of the channels after the background, ascending.
        soft: (1 + len(classes), I, J, K), sums to one.
    """

    classes: tuple[int, ...]
    soft: Float[np.ndarray, "n i j k"]

    def hard(self) -> UInt8[np.ndarray, "i j k"]:
        """The likeliest label index of every voxel."""
        return likeliest(self.classes, self.soft)


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """What a method may learn from, and for how long. Each is equal to itself alone.

    Attributes:
        scans: normalised volumes, memory-mapped.
        annotations: one painted slice of each, chosen by `cohort`; only rows fused with a segmenter
            look at them.
        scored_too: whether these are the scans that are scored.
        axis: whose slices will be painted.
        seconds: for how long to train, where that is not counted in steps.
        steps: how many steps to train instead, if not None.
        seed: what the method draws at random, it draws from here.
    """

    scans: tuple[Scan, ...]
    annotations: tuple[SliceAnnotation, ...]
    scored_too: bool
    axis: int
    seconds: float
    steps: int | None
    seed: int


StackPropagator = Callable[
    [Float[Tensor, "c d h w"], Float[Tensor, "n h w"], int], Float[Tensor, "n d h w"]
]
Propagator = Callable[[Scan, SliceAnnotation], SoftLabels]


def stack_of(scan: Scan, axis: int) -> Float[Tensor, "c d h w"]:
    """A copy of the volume with the slices of an axis along D."""
    return torch.from_numpy(np.array(np.moveaxis(np.asarray(scan.image), 1 + axis, 1)))


def on_stacks(spread: StackPropagator) -> Propagator:
    """A propagator for scans from one for stacks of slices.

    Only the classes that are painted on the slice are carried; the others cannot appear.
    """

    def propagate(scan: Scan, annotation: SliceAnnotation) -> SoftLabels:
        classes = tuple(int(value) for value in np.unique(annotation.mask) if value)
        labels = np.stack([annotation.mask == index for index in (0, *classes)])
        painted = torch.from_numpy(labels.astype(np.float32))
        axis = annotation.ref.axis
        soft = spread(stack_of(scan, axis), painted, annotation.ref.index)
        return SoftLabels(classes, np.moveaxis(soft.numpy(), 1, 1 + axis))

    return propagate
