"""Trains the two federated networks: the segmenter on labels, the student on the segmenter."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import Module

from client.learning.batches import Batch
from client.learning.losses import proximal_term, segmentation_loss, smooth_doubtful
from client.learning.train import train
from common.plan import Training


def train_segmenter(
    segmenter: Module,
    batches: Iterable[Batch],
    settings: Training,
    *,
    learning_rate: float,
    proximal_mu: float,
    device: torch.device,
) -> float | None:
    """Trains in place on what the labels say where they are trusted; the mean loss."""
    segmenter.to(device)
    received = [parameter.detach().clone() for parameter in segmenter.parameters()]

    def loss(network: Module, batch: Batch) -> Tensor:
        target = smooth_doubtful(
            batch.target, batch.weight, batch.painted, batch.known, settings.smoothing_max
        )
        value = segmentation_loss(network(batch.image), target, batch.weight, batch.known)
        return value + proximal_term(list(network.parameters()), received, proximal_mu)

    return train(segmenter, batches, loss, settings, learning_rate=learning_rate, device=device)


def train_student(
    student: Module,
    segmenter: Module,
    batches: Iterable[Batch],
    settings: Training,
    *,
    learning_rate: float,
    device: torch.device,
) -> float | None:
    """Trains the student in place on the segmenter's probabilities, everywhere; the mean loss."""
    segmenter.to(device).eval()

    def loss(network: Module, batch: Batch) -> Tensor:
        with torch.no_grad():
            wanted = torch.softmax(segmenter(batch.image).float(), dim=1)
        everywhere = torch.ones_like(batch.weight)
        all_known = torch.ones_like(wanted, dtype=torch.bool)
        return segmentation_loss(network(batch.image), wanted, everywhere, all_known)

    return train(student, batches, loss, settings, learning_rate=learning_rate, device=device)
