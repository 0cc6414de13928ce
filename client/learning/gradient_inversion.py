"""What can be read back from an update: patches rebuilt so that their gradient points the same way.

After Geiping et al., Inverting Gradients (2020): the cosine of the two, and a prior for smooth
images. The attack is told what the labels were, which a real one has to guess.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

Images = Float[Tensor, "b c i j k"]
Loss = Callable[[Module, Images], Tensor]
FIRST_STEP, SMOOTHNESS = 0.1, 1e-3


def gradient_of(network: Module, loss: Loss, images: Images) -> list[Tensor]:
    """The gradient of each of the network's parameters."""
    found = torch.autograd.grad(loss(network, images), list(network.parameters()))
    return [gradient.detach() for gradient in found]


def rebuild_images(
    network: Module,
    loss: Loss,
    target: Sequence[Tensor],
    first_guess: Images,
    *,
    iterations: int,
) -> Images:
    """Images whose gradient points where `target` does, from a first guess on.

    Args:
        network: as it was before the step or the round.
        loss: of the network on images, with the labels that the hospital had.
        target: what the attacker has seen: a gradient, or how far a round moved each parameter
            against its direction; one tensor per parameter, of any length.
        first_guess: for instance noise.
        iterations: how many steps to take.
    """
    parameters = list(network.parameters())
    guess = first_guess.clone().requires_grad_(True)
    optimiser = torch.optim.Adam([guess], lr=FIRST_STEP)
    milestones = [iterations * part // 8 for part in (3, 5, 7)]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones, gamma=0.1)
    best, lowest = guess.detach().clone(), torch.inf
    for _ in range(iterations):
        found = torch.autograd.grad(loss(network, guess), parameters, create_graph=True)
        distance = 1 - cosine(found, target)
        if float(distance.detach()) < lowest:
            best, lowest = guess.detach().clone(), float(distance.detach())
        cost = distance + SMOOTHNESS * total_variation(guess)
        # The sign: what reaches the first layers is too small for steps of its own length.
        guess.grad = torch.autograd.grad(cost, guess)[0].sign()
        optimiser.step()
        schedule.step()
    return best


def cosine(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Of the angle between two sets of tensors, each taken as one long vector."""
    pairs = list(zip(one, other, strict=True))
    product = torch.stack([(a * b).sum() for a, b in pairs]).sum()
    squares = [torch.stack([(t * t).sum() for t in tensors]).sum() for tensors in (one, other)]
    return product / (squares[0] * squares[1]).sqrt().clamp_min(1e-30)


def total_variation(images: Images) -> Tensor:
    """The mean step between neighbouring voxels, summed over the axes."""
    steps = [images.diff(dim=axis).abs() for axis in (2, 3, 4) if images.shape[axis] > 1]
    return torch.stack([step.mean() for step in steps]).sum()


def correlations(
    some: Float[Tensor, "a c i j k"], others: Float[Tensor, "b c i j k"]
) -> Float[Tensor, "a b"]:
    """The normalised cross-correlation of each with each: 1 alike, 0 unrelated, -1 inverted.

    0 where an image is the same in every voxel.
    """
    one, other = (
        images.flatten(1) - images.flatten(1).mean(1, keepdim=True) for images in (some, others)
    )
    lengths = one.norm(dim=1)[:, None] * other.norm(dim=1)[None]
    return torch.where(lengths > 0, one @ other.T / lengths.clamp_min(1e-12), 0.0)
