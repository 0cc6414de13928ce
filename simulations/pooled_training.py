"""Trains a segmenter on scans in one place, without a federation, for comparisons."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import torch
from monai.networks.nets import UNet

from client.few_labels.prototypes import contrast_term
from client.few_labels.pseudo_labels import add_unannotated, second_stage
from client.few_labels.synthesis import synthesise
from client.learning.batches import draw_batches
from client.learning.examples import Example
from client.learning.train import learning_rate_at
from client.learning.train_models import train_segmenter
from common.networks.embedding import EMBEDDING, build_embedding
from common.plan import FederationPlan
from common.random_streams import generator
from common.scans import Scan

PARTS = 10  # the learning rate falls from part to part


def train_pooled(  # noqa: PLR0913  (what a comparison varies, and nothing of it belongs together)
    network: UNet,
    examples: Mapping[str, Example],
    plan: FederationPlan,
    *,
    steps: int,
    stream: tuple[str | int, ...],
    device: torch.device,
    unannotated: Mapping[str, Scan] = MappingProxyType({}),
) -> None:
    """Trains in place for `steps`, the rate falling as over a stage of the plan.

    `stream` names the random numbers that the batches are drawn from, with the plan's seed. Scans
    that are `unannotated` serve where the plan has pseudo-labels.
    """
    few_labels, embedding = plan.few_labels, build_embedding(plan).get(EMBEDDING)
    for part in range(PARTS):
        first, last = (place * steps // PARTS for place in (part, part + 1))

        def rng(*names: str, part: int = part) -> np.random.Generator:
            return generator(plan.seed, *stream, part, *names)

        batches = draw_batches(
            list(examples), [], examples.__getitem__, plan, steps=last - first, rng=rng()
        )
        batches = synthesise(batches, examples.values(), plan, rng("synthesis"))
        batches = add_unannotated(
            batches, list(unannotated), unannotated.__getitem__, plan, rng("unannotated")
        )
        done = part / (PARTS - 1)
        batches, terms = second_stage(
            batches,
            network,
            embedding,
            few_labels.pseudo_labels,
            share_of_stage_done=done,
            device=device,
        )
        train_segmenter(
            network,
            batches,
            plan.training,
            learning_rate=learning_rate_at(plan.training, done),
            device=device,
            terms=terms,
            on_features=contrast_term(embedding, few_labels.prototypes, rng("contrast")),
        )
