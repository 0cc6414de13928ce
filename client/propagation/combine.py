"""Several ways of carrying one painted slice through its scan, made into one.

Each errs in its own way: patch affinity fades and stops in time, learned correspondence is sharper
and runs on, registration bends the shape best and never ends it. Their mean says where a structure
lies; the patches say on which slices it is still there. Measured in docs/benchmarks.md.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from client.propagation.registration import carry_by_registration
from client.propagation.soft_affinity import (
    Carried,
    carry,
    carry_soft,
    end_classes,
    for_descriptors,
    foreground_agreement,
)
from common.networks.correspondence import CorrespondenceNetwork
from common.plan import Propagation

# The learned descriptors vote three times, from sharp to blurred: sharp ones keep the shape,
# blurred ones let a structure fade where nothing matches any more.
LEARNED_TEMPERATURES = (1.0, 2.0, 4.0)
SLICES_AT_ONCE = 16


def carry_by_all(
    stack: Float[Tensor, "c d h w"],
    painted: Float[Tensor, "n h w"],
    start: int,
    settings: Propagation,
    network: CorrespondenceNetwork | None,
) -> Carried:
    """`painted` carried by all of the plan's candidates, ended and weighed.

    Args:
        stack: the slices.
        painted: class probabilities on slice `start`.
        start: which slice is painted.
        settings: which candidates vote.
        network: the correspondence network; needed if it is among them.
    """
    by_patches = carry(stack, painted, start, settings)
    if settings.candidates == ("patches",):
        return by_patches
    there = still_there(by_patches.soft, start)
    first, last = _extent(there, start)
    # Where the patches have ended all classes, the others need not look.
    part = stack[:, first : last + 1]
    votes = [by_patches.soft[:, first : last + 1]] if "patches" in settings.candidates else []
    if "correspondence" in settings.candidates:
        assert network is not None  # whoever asks for it brings it
        votes += carry_by_correspondence(part, painted, start - first, settings, network)
    if "registration" in settings.candidates:
        votes.append(carry_by_registration(part, painted, start - first))
    mean = torch.stack(votes).mean(0)
    soft, agreement = torch.zeros_like(by_patches.soft), torch.zeros_like(by_patches.agreement)
    soft[0] = 1
    soft[:, first : last + 1] = end_classes(mean, there[:, first : last + 1])
    mutual = torch.stack([foreground_agreement(vote, mean) for vote in votes]).mean(0)
    agreement[first : last + 1] = mutual
    return Carried(soft, by_patches.agreement * agreement)


def _extent(there: Bool[Tensor, "f d"], start: int) -> tuple[int, int]:
    """The first and last slice on which any class still is; the painted one at least."""
    slices = there.any(0).nonzero().flatten().tolist()
    return (slices[0], slices[-1]) if slices else (start, start)


def carry_by_correspondence(
    stack: Float[Tensor, "c d h w"],
    painted: Float[Tensor, "n h w"],
    start: int,
    settings: Propagation,
    network: CorrespondenceNetwork,
) -> list[Float[Tensor, "n d h w"]]:
    """The learned descriptors' votes, the sharpest first."""
    descriptors = describe(network, stack)
    return [
        carry_soft(descriptors, painted, start, for_descriptors(settings, len(descriptors), t))
        for t in LEARNED_TEMPERATURES
    ]


@torch.inference_mode()
def describe(
    network: CorrespondenceNetwork, stack: Float[Tensor, "c d h w"]
) -> Float[Tensor, "k d h w"]:
    """The descriptors of all slices."""
    network.to(stack.device).eval()
    parts = torch.split(stack.movedim(1, 0), SLICES_AT_ONCE)
    return torch.cat([network(part) for part in parts]).movedim(0, 1)


def still_there(soft: Float[Tensor, "n d h w"], start: int) -> Bool[Tensor, "f d"]:
    """On which slices each foreground class is still likelier than the background somewhere.

    A part that blurs into another part of the organ has not ended; one that the background takes
    the place of has. A class that has stopped does not come back further out.
    """
    shown = (soft[1:] > soft[:1]).flatten(2).any(2)
    outwards = shown[:, start:].cumprod(1)
    inwards = shown[:, : start + 1].flip(1).cumprod(1).flip(1)
    return torch.cat([inwards[:, :-1], outwards], dim=1).bool()
