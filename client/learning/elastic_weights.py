"""Elastic weight consolidation: weights that mattered for earlier tasks are held where they were.

Re-implementation after Kirkpatrick et al., "Overcoming catastrophic forgetting in neural networks"
(PNAS 2017), with the empirical Fisher information: of the labels that there are, rather than of
labels drawn from the model. A comparison to replay rather than a companion of it.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Module

from client.learning.batches import Batch
from client.learning.losses import cross_entropy


def fisher_information(
    network: Module, batches: Iterable[Batch], device: torch.device
) -> list[Tensor]:
    """Its diagonal, one tensor per parameter: mean squared gradient of the cross-entropy.

    Of each patch alone, since the square of a mean gradient is no mean of squares. Zeros without
    batches. The network is left as it was.
    """
    network.to(device).eval()
    parameters = list(network.parameters())
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    num_patches = 0
    for batch in batches:
        moved = batch.to(device)
        for place in range(len(moved.image)):
            one = slice(place, place + 1)
            loss = cross_entropy(
                network(moved.image[one]), moved.target[one], moved.weight[one], moved.known[one]
            )
            gradients = torch.autograd.grad(loss, parameters)
            sums = [total + one.square() for total, one in zip(sums, gradients, strict=True)]
            num_patches += 1
    return [total / max(num_patches, 1) for total in sums]


def elastic_term(
    parameters: Sequence[Tensor],
    old_parameters: Sequence[Tensor],
    fisher: Sequence[Tensor],
    weight: float,
) -> Tensor:
    """Half of the weight times the squared distance from the old weights, each by its Fisher."""
    squared = [
        (information * (own - old).square()).sum()
        for own, old, information in zip(parameters, old_parameters, fisher, strict=True)
    ]
    return 0.5 * weight * torch.stack(squared).sum()
