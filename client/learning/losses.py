"""Losses for labels that are soft, partly known and unequally trusted."""

import torch
from jaxtyping import Bool, Float
from monai.networks.layers import GaussianFilter
from torch import Tensor

Logits = Float[Tensor, "b n i j k"]
Weight = Float[Tensor, "b i j k"]
Painted = Bool[Tensor, "b i j k"]
Known = Bool[Tensor, "b n i j k"]


def smooth_doubtful(
    target: Logits, weight: Weight, painted: Painted, known: Known, largest: float
) -> Logits:
    """Mixes the target with the uniform distribution over the known classes.

    The share of the uniform part is `largest` * (1 - weight). Painted voxels stay as painted,
    also where turning a patch has left them less weight: that is no doubt about the label.
    (Spatial label smoothing after Tian et al., dynamic interactive learning.)
    """
    share = (largest * (1 - weight) * ~painted)[:, None]
    uniform = known / known.sum(1, keepdim=True)
    return (1 - share) * target + share * uniform


def smooth_boundaries(
    target: Logits, weight: Weight, known: Known, deviation_voxels: float
) -> Logits:
    """The target, blurred over the voxels that have a label: soft where structures meet.

    A voxel keeps less of its class the nearer a boundary is, since there hands and scanners
    disagree; deep inside it keeps all. Voxels without a label lend nothing, so that a painted slice
    is blurred within itself. Those where nobody looked for some class lend and get nothing: their
    background may be that class. (Spatially varying label smoothing; Islam and Glocker, 2021.)
    """
    if deviation_voxels == 0:
        return target
    blur = GaussianFilter(3, deviation_voxels, truncated=3.0).to(target.device)
    trust = (weight * known.all(1))[:, None]
    blurred = blur(target * trust) / blur(trust).clamp_min(1e-12)
    return torch.where(trust > 0, blurred, target)


def segmentation_loss(logits: Logits, target: Logits, weight: Weight, known: Known) -> Tensor:
    """Weighted soft cross-entropy plus soft Dice, over what is known.

    Classes that are unknown at a voxel count as background in the cross-entropy there and are left
    out of the Dice (marginal and exclusion losses after Shi et al., 2021).
    """
    return cross_entropy(logits, target, weight, known) + dice_loss(logits, target, weight, known)


def cross_entropy(logits: Logits, target: Logits, weight: Weight, known: Known) -> Tensor:
    """Mean over the weight; 0 where nothing is known."""
    log_probability = torch.log_softmax(logits.float(), dim=1)
    # Background takes the probability of the unknown classes: log of the sum over both.
    pooled = log_probability.masked_fill(known, -torch.inf)
    background = torch.logsumexp(
        torch.cat([log_probability[:, :1], pooled[:, 1:]], dim=1), dim=1, keepdim=True
    )
    merged = torch.cat([background, log_probability[:, 1:]], dim=1)
    wanted = _merge_unknown(target, known)
    per_voxel = -(wanted * merged).sum(1)
    return (per_voxel * weight).sum() / weight.sum().clamp_min(1e-6)


def dice_loss(logits: Logits, target: Logits, weight: Weight, known: Known) -> Tensor:
    """1 - mean soft Dice over the foreground classes that are known somewhere in the batch.

    Those that are silent and not there are left out: their Dice would be 1, whatever is learnt.
    """
    counted = known[:, 1:] * weight[:, None]
    probability = torch.softmax(logits.float(), dim=1)[:, 1:]
    wanted = target[:, 1:]
    axes = (0, 2, 3, 4)
    overlap = 2 * (counted * probability * wanted).sum(axes)
    both = (counted * (probability + wanted)).sum(axes)
    is_known = both > 0
    per_class = torch.where(is_known, (overlap + 1) / (both + 1), 0.0)
    return (1 - per_class.sum() / is_known.sum().clamp_min(1)) * is_known.any()


def proximal_term(
    parameters: list[Tensor], global_parameters: list[Tensor], mu: float
) -> Tensor | float:
    """Half of mu times the squared distance from the global weights (FedProx; Li et al., 2020)."""
    if mu == 0:
        return 0.0
    squared = [
        (own - shared).square().sum()
        for own, shared in zip(parameters, global_parameters, strict=True)
    ]
    return 0.5 * mu * torch.stack(squared).sum()


def _merge_unknown(target: Logits, known: Known) -> Logits:
    """Gives the target mass of unknown classes to the background."""
    foreground = target[:, 1:] * known[:, 1:]
    return torch.cat([1 - foreground.sum(1, keepdim=True), foreground], dim=1)
