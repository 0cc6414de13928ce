"""What synthesis does to patches: soft edges, blending, texture without structure, filled holes."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from monai.networks.layers.simplelayers import GaussianFilter
from torch import Tensor

from client.learning.examples import Patch
from common.random_streams import generator

# From how far around a hole it is filled.
FILL_VOXELS = 3.0


def soft_edge(outline: Float[Tensor, "i j k"], feather_voxels: float) -> Float[Tensor, "i j k"]:
    """How much of a paste is seen: 1 on its structure, falling to 0 over a rim around it.

    `outline` is the chance that a voxel is of the structure. The rim is a Gaussian edge of
    deviation `feather_voxels`, two deviations outside of the structure; with 0 there is none.
    """
    inside = (outline > 0.5).float()
    if feather_voxels == 0:
        return inside
    reach = round(2 * feather_voxels)
    grown = F.max_pool3d(inside[None, None], 2 * reach + 1, stride=1, padding=reach)
    soft: Tensor = GaussianFilter(3, feather_voxels)(grown)[0, 0]
    return soft.clamp(0, 1)


def blend(background: Patch, pasted: Patch, alpha: Float[Tensor, "i j k"]) -> Patch:
    """The images mixed; each voxel has the label of the one that is seen more.

    The more evenly a voxel is mixed, the less its label weighs.
    """
    taken = alpha >= 0.5
    sure = (2 * alpha - 1).abs()
    return Patch(
        image=alpha * pasted.image + (1 - alpha) * background.image,
        target=torch.where(taken, pasted.target, background.target),
        weight=torch.where(taken, pasted.weight, background.weight) * sure,
        painted=torch.where(taken, pasted.painted, background.painted),
        known=torch.where(taken, pasted.known, background.known),
    )


def texture_of(patch: Patch, seed: int) -> Patch:
    """The patch's texture without its shapes: its spectrum with the phases of noise, background.

    What the patch knows nothing of stays unknown.
    """
    noise = torch.from_numpy(generator(seed, "texture").standard_normal(patch.image.shape))
    axes, size = (1, 2, 3), patch.image.shape[1:]
    phase = torch.fft.rfftn(noise, dim=axes).angle()
    phase[:, 0, 0, 0] = 0  # the mean stays
    spectrum = torch.fft.rfftn(patch.image.double(), dim=axes)
    mean = spectrum[:, 0, 0, 0].clone()
    mixed = torch.polar(spectrum.abs(), phase)
    mixed[:, 0, 0, 0] = mean
    texture = torch.fft.irfftn(mixed, s=size, dim=axes).to(patch.image.dtype)
    return _as_background(patch, texture)


def filled(patch: Patch, hole: Float[Tensor, "i j k"]) -> Patch:
    """The patch with what is around a hole (1 in it, 0 outside) carried on into it, background."""
    smooth = GaussianFilter(3, FILL_VOXELS)
    around = (1 - hole)[None]
    share = smooth(around[None])[0].clamp_min(1e-3)
    return _as_background(patch, smooth((around * patch.image)[None])[0] / share)


def _as_background(patch: Patch, image: Float[Tensor, "c i j k"]) -> Patch:
    target = torch.zeros_like(patch.target)
    target[0] = 1
    return replace(patch, image=image, target=target)


def largest_overlap(masks: Sequence[Bool[Tensor, "i j k"]]) -> float:
    """The largest share that any mask has in common with a smaller one; 0 for fewer than two."""
    shares = [
        float((one & other).sum() / torch.minimum(one.sum(), other.sum()).clamp_min(1))
        for place, one in enumerate(masks)
        for other in masks[:place]
    ]
    return max(shares, default=0.0)
