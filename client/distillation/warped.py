"""Labelled patches that resemble other scans: image, label and weight warped together.

The label belongs to the image that it is warped with; OS-MedSeg (Zhou et al., 2024) lost three to
four Dice points where it was put beside the other scan. A part of the way only, in shape and in
style, after BRBS (He et al., 2022); re-implementation after the published descriptions.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from client.distillation.pairs import Pair
from client.distillation.registration import warp
from client.learning.batches import Batch

LEAST_WEIGHT = 1e-6  # less is what is left over of rounding


@torch.no_grad()
def warp_pair(registration: Module, pair: Pair) -> Batch:
    """The moving patches on their way to the fixed ones.

    (x + b (warp(u) - x)) o (a phi): style first, where the labels are, then shape.
    """
    moving = pair.moving
    with torch.autocast(moving.image.device.type, enabled=False):
        to_fixed = registration(moving.image, pair.fixed)
        to_moving = registration(pair.fixed, moving.image)
        fixed_here = warp(pair.fixed, to_moving)
        styled = moving.image + _each(pair.style_share) * (fixed_here - moving.image)
        return warp_batch(replace(moving, image=styled), _each(pair.flow_share) * to_fixed)


def warp_batch(batch: Batch, displacement: Float[Tensor, "b 3 i j k"]) -> Batch:
    """The patches with all that is known of them, moved.

    Labels mix by their weight, as they do when patches are cut. What comes in from outside of a
    patch is unknown. A class counts as known where it is for most of the weight that came there.
    """
    num_classes = batch.target.shape[1]
    weight = batch.weight[:, None]
    parts = [batch.target * weight, batch.known * weight, batch.painted[:, None] * weight]
    moved = warp(torch.cat(parts, dim=1), displacement, outside="zeros")
    weighted, known = moved[:, :num_classes], moved[:, num_classes:-1]
    painted = moved[:, -1]
    total = weighted.sum(1, keepdim=True)
    is_known = known >= 0.5 * total
    is_known[:, 0] = True
    return replace(
        batch,
        image=warp(batch.image, displacement),
        target=weighted / total.clamp_min(LEAST_WEIGHT),
        weight=total[:, 0].clamp(0, 1),
        painted=(painted >= 0.5 * total[:, 0]) & (total[:, 0] > LEAST_WEIGHT),
        known=is_known,
    )


def _each(share: Float[Tensor, "b"]) -> Float[Tensor, "b 1 1 1 1"]:
    return share[:, None, None, None, None]
