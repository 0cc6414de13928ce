"""Patches cut and put together anew: a box of each is another patch's, image and labels alike.

After CutMix (Yun et al., ICCV 2019) and bidirectional copy-paste (Bai et al., CVPR 2023), in which
a patch with labels lends to one without, and the other way round; re-implementation after the
published descriptions.

A network that sees a piece of one scan in the middle of another has to know the structure itself,
not only what usually lies around it.
"""

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from client.learning.batches import Batch

# How long the box may be along each axis, as a share of the patch.
SHORTEST, LONGEST = 0.4, 0.75


def mix_patches(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with one box swapped among its patches, each voxel with all that is known of it.

    Nothing is lost: every voxel of the batch is there once. Patches from memory swap with each
    other alone, since what holds their outputs to the old model's weighs each patch as a whole.
    """
    partner = torch.as_tensor(_partners(batch.replayed.tolist(), rng), device=batch.image.device)
    box = _draw_box(batch.weight.shape[1:], rng).to(batch.image.device)

    def mixed(part: Tensor) -> Tensor:
        return torch.where(box, part[partner], part)

    voxelwise = {one.name: getattr(batch, one.name) for one in fields(batch)}
    del voxelwise["replayed"]
    given = {name: part for name, part in voxelwise.items() if part is not None}
    return replace(batch, **{name: mixed(part) for name, part in given.items()})


def _partners(replayed: Sequence[bool], rng: np.random.Generator) -> list[int]:
    """For each patch, whose box it gets: the next one's, in a ring of its kind in random order."""
    partners = list(range(len(replayed)))
    for kind in (False, True):
        places = [place for place, is_replayed in enumerate(replayed) if is_replayed == kind]
        ring = rng.permutation(places).tolist()
        for place, following in zip(ring, [*ring[1:], *ring[:1]], strict=True):
            partners[int(place)] = int(following)
    return partners


def _draw_box(size: Sequence[int], rng: np.random.Generator) -> Bool[Tensor, "i j k"]:
    box = torch.zeros(tuple(size), dtype=torch.bool)
    within = []
    for length in size:
        side = max(1, round(length * float(rng.uniform(SHORTEST, LONGEST))))
        first = int(rng.integers(length - side + 1))
        within.append(slice(first, first + side))
    box[tuple(within)] = True
    return box
