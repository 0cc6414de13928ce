"""How well each slice of a scan stands for all of them, without labels.

After OneSeg's representative selection (Wu et al., MICCAI 2022; re-implementation after the
published description), on two plain looks at a slice: coarse intensities without slow shading, and
edge strength. On hippocampus scans these two together came nearest to the best slice; descriptors
of the correspondence network, pooled, came less near (docs/benchmarks.md).
"""

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

SHADING_PIXELS = 15
INTENSITY_GRID, EDGE_GRID = 12, 8
AT_ONCE = 16


def coverage(stack: Float[np.ndarray, "c d h w"]) -> Float[np.ndarray, "d"]:
    """Per slice, how much it resembles all slices, both looks on one scale."""
    # Some slices at once: a large volume is mapped from the disk, and need not be in memory whole.
    parts = [
        _looks(stack[:, first : first + AT_ONCE]) for first in range(0, stack.shape[1], AT_ONCE)
    ]
    intensities, edges = (torch.cat(look) for look in zip(*parts, strict=True))
    total = _standardised(_resemblance(intensities)) + _standardised(_resemblance(edges))
    result: Float[np.ndarray, "d"] = total.numpy()
    return result


def _looks(
    stack: Float[np.ndarray, "c d h w"],
) -> tuple[Float[Tensor, "d f"], Float[Tensor, "d e"]]:
    """Coarse intensities and edge strength of each slice, in a row each."""
    slices = rearrange(torch.from_numpy(np.array(stack, dtype=np.float32)), "c d h w -> d c h w")
    intensities = F.adaptive_avg_pool2d(_without_shading(slices), INTENSITY_GRID)
    edges = F.adaptive_avg_pool2d(_edge_strength(slices), EDGE_GRID)
    return intensities.flatten(1), edges.flatten(1)


def _resemblance(looks: Float[Tensor, "d f"]) -> Float[Tensor, "d"]:
    """Sum over all slices of the cosine to them, where positive; the mean look is taken off."""
    unit = F.normalize(looks - looks.mean(0), dim=1)
    return (unit @ unit.T).clamp_min(0).sum(1)


def _standardised(values: Float[Tensor, "d"]) -> Float[Tensor, "d"]:
    return (values - values.mean()) / values.std(correction=0).clamp_min(1e-6)


def _without_shading(slices: Float[Tensor, "d c h w"]) -> Float[Tensor, "d c h w"]:
    padded = F.pad(slices, (SHADING_PIXELS // 2,) * 4, mode="replicate")
    return slices - F.avg_pool2d(padded, SHADING_PIXELS, stride=1)


def _edge_strength(slices: Float[Tensor, "d c h w"]) -> Float[Tensor, "d c h w"]:
    padded = F.pad(slices, (0, 1, 0, 1), mode="replicate")
    down = (padded[:, :, 1:, :-1] - slices).abs()
    across = (padded[:, :, :-1, 1:] - slices).abs()
    return down + across
