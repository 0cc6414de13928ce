"""Trains the two federated networks: the segmenter on labels, the student on the segmenter."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from client.learning.batches import Batch
from client.learning.losses import Logits, proximal_term, segmentation_loss, smooth_doubtful
from client.learning.train import train
from common.learning_settings import Training
from common.networks.unet import features_and_logits

# Of the network, a batch, and the logits that the network gave for it.
LossTerm = Callable[[Module, Batch, Logits], Tensor | float]


@dataclass(frozen=True)
class FeatureTerm:
    """A loss term on the segmenter's last features, and the module that is trained with it."""

    embedding: Module
    loss: Callable[[Tensor, Batch], Tensor]


def train_segmenter(  # noqa: PLR0913  (the loop needs all of them, and they form no group)
    segmenter: Module,
    batches: Iterable[Batch],
    settings: Training,
    *,
    learning_rate: float,
    device: torch.device,
    terms: Sequence[LossTerm] = (),
    on_features: FeatureTerm | None = None,
) -> float | None:
    """Trains in place on what the labels say where they are trusted; the mean loss.

    `terms` are added to the loss of each batch, and what its last features cost `on_features`.
    """
    trained = segmenter if on_features is None else ModuleList([segmenter, on_features.embedding])

    def loss(_trained: Module, batch: Batch) -> Tensor:
        target = smooth_doubtful(
            batch.target, batch.weight, batch.painted, batch.known, settings.smoothing_max
        )
        if on_features is None:
            logits = segmenter(batch.image)
            value = segmentation_loss(logits, target, batch.weight, batch.known)
        else:
            features, logits = features_and_logits(segmenter, batch.image)
            value = segmentation_loss(logits, target, batch.weight, batch.known)
            value = value + on_features.loss(features, batch)
        for term in terms:
            value = value + term(segmenter, batch, logits)
        return value

    return train(trained, batches, loss, settings, learning_rate=learning_rate, device=device)


def stay_near(network: Module, mu: float, device: torch.device) -> LossTerm:
    """The term that holds a network near the weights that it has now."""
    received = [parameter.detach().clone() for parameter in network.to(device).parameters()]

    def term(network: Module, _batch: Batch, _logits: Logits) -> Tensor | float:
        return proximal_term(list(network.parameters()), received, mu)

    return term


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
