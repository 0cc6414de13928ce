"""Trains the two federated networks: the segmenter on labels, the student as the plan says."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, ModuleList

from client.learning.batches import Batch
from client.learning.losses import (
    Logits,
    proximal_term,
    segmentation_loss,
    smooth_boundaries,
    smooth_doubtful,
)
from client.learning.train import train
from common.learning_settings import Distillation, Training
from common.networks.unet import features_and_logits

# Of the network, a batch, and the logits that the network gave for it.
LossTerm = Callable[[Module, Batch, Logits], Tensor | float]


@dataclass(frozen=True)
class FeatureTerm:
    """A loss term on the segmenter's last features, and the module that is trained with it."""

    embedding: Module
    loss: Callable[[Tensor, Batch], Tensor]


@dataclass(frozen=True)
class StudentTerm:
    """A loss term on patches that it makes for the student, and the modules trained with it."""

    trained_with: Sequence[Module]
    loss: Callable[[Module], Tensor]


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
        if on_features is None:
            logits = segmenter(batch.image)
            value = label_loss(logits, batch, settings)
        else:
            features, logits = features_and_logits(segmenter, batch.image)
            value = label_loss(logits, batch, settings) + on_features.loss(features, batch)
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


def train_student(  # noqa: PLR0913  (the loop needs all of them, and they form no group)
    student: Module,
    segmenter: Module,
    batches: Iterable[Batch],
    settings: Training,
    distillation: Distillation,
    *,
    learning_rate: float,
    device: torch.device,
    on_pairs: StudentTerm | None = None,
) -> float | None:
    """Trains the student in place; the mean loss.

    On the segmenter's probabilities, everywhere, on what the labels say where they are trusted, and
    on `on_pairs`, as far as each has a weight.
    """
    segmenter.to(device).eval()
    trained = student if on_pairs is None else ModuleList([student, *on_pairs.trained_with])

    def loss(_trained: Module, batch: Batch) -> Tensor:
        terms = [] if on_pairs is None else [on_pairs.loss(student)]
        if distillation.soft_predictions > 0:
            terms.append(distillation.soft_predictions * imitation_loss(student, segmenter, batch))
        if distillation.labels > 0:
            terms.append(distillation.labels * label_loss(student(batch.image), batch, settings))
        return sum(terms[1:], start=terms[0])

    return train(trained, batches, loss, settings, learning_rate=learning_rate, device=device)


def imitation_loss(student: Module, segmenter: Module, batch: Batch) -> Tensor:
    """How far the student is from the segmenter's probabilities, everywhere."""
    with torch.no_grad():
        wanted = torch.softmax(segmenter(batch.image).float(), dim=1)
    everywhere = torch.ones_like(batch.weight)
    all_known = torch.ones_like(wanted, dtype=torch.bool)
    return segmentation_loss(student(batch.image), wanted, everywhere, all_known)


def label_loss(logits: Logits, batch: Batch, settings: Training) -> Tensor:
    """How far logits are from what the labels say where they are trusted."""
    target = smooth_boundaries(
        batch.target, batch.weight, batch.known, settings.boundary_smoothing_voxels
    )
    target = smooth_doubtful(
        target, batch.weight, batch.painted, batch.known, settings.smoothing_max
    )
    return segmentation_loss(logits, target, batch.weight, batch.known)
