"""Trains a segmenter on scans in one place, without a federation, for comparisons."""

from collections.abc import Mapping

import torch
from monai.networks.nets import UNet

from client.learning.batches import draw_batches
from client.learning.examples import Example
from client.learning.train import learning_rate_at
from client.learning.train_models import train_segmenter
from common.plan import FederationPlan
from common.random_streams import generator

PARTS = 10  # the learning rate falls from part to part


def train_pooled(
    network: UNet,
    examples: Mapping[str, Example],
    plan: FederationPlan,
    *,
    steps: int,
    stream: tuple[str | int, ...],
    device: torch.device,
) -> None:
    """Trains in place for `steps`, the rate falling as over a stage of the plan.

    `stream` names the random numbers that the batches are drawn from, with the plan's seed.
    """
    for part in range(PARTS):
        first, last = (place * steps // PARTS for place in (part, part + 1))
        batches = draw_batches(
            list(examples),
            [],
            examples.__getitem__,
            plan,
            steps=last - first,
            rng=generator(plan.seed, *stream, part),
        )
        rate = learning_rate_at(plan.training, part / (PARTS - 1))
        train_segmenter(
            network, batches, plan.training, learning_rate=rate, proximal_mu=0.0, device=device
        )
