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


def coverage(stack: Float[np.ndarray, "c d h w"]) -> Float[np.ndarray, "d"]:
    """Per slice, how much it resembles all slices, both looks on one scale."""
    slices = rearrange(torch.from_numpy(np.array(stack, dtype=np.float32)), "c d h w -> d c h w")
    looks = (
        F.adaptive_avg_pool2d(_without_shading(slices), INTENSITY_GRID),
        F.adaptive_avg_pool2d(_edge_strength(slices), EDGE_GRID),
    )
    total = sum(_standardised(_resemblance(look.flatten(1))) for look in looks)
    result: Float[np.ndarray, "d"] = torch.as_tensor(total).numpy()
    return result


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
