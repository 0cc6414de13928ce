"""What a plan makes a hospital send: how many tensors and numbers, how large, how often."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from common.networks.correspondence import CorrespondenceNetwork
from common.networks.embedding import build_embedding
from common.networks.unet import SEGMENTER, STUDENT, build_unet
from common.plan import FederationPlan, Wire
from common.updates import CORRESPONDENCE
from common.wire import HALF


@dataclass(frozen=True)
class NetworkTraffic:
    """One network's way out. `num_bytes` is what its tensors weigh, in each of its `rounds`."""

    network: str
    tensors: int
    parameters: int
    num_bytes: int
    rounds: int


def traffic_of(plan: FederationPlan) -> tuple[NetworkTraffic, ...]:
    """What leaves in the rounds of a plan, network by network; nothing is computed or allocated."""
    return tuple(
        NetworkTraffic(
            name,
            len(tensors),
            sum(tensor.numel() for tensor in tensors),
            sum(tensor.numel() * _bytes_per_number(tensor, plan.wire) for tensor in tensors),
            rounds,
        )
        for name, tensors, rounds in _networks(plan)
    )


def message_bytes(plan: FederationPlan) -> int:
    """What the tensors of the largest message to a hospital weigh: all networks together."""
    return sum(
        tensor.numel() * tensor.element_size()
        for _, tensors, _ in _networks(plan)
        for tensor in tensors
    )


def _networks(plan: FederationPlan) -> Iterator[tuple[str, list[torch.Tensor], int]]:
    """Each network's tensors, and in how many rounds they leave."""
    learning = max(plan.correspondence.rounds - plan.begins_after, 0)
    later = plan.num_rounds - plan.begins_after - learning
    sizes = {"in_channels": plan.channels, "num_classes": plan.num_classes}
    with torch.device("meta"):
        networks: list[tuple[str, torch.nn.Module, int]] = [
            (SEGMENTER, build_unet(plan.segmenter, **sizes), later),
            (STUDENT, build_unet(plan.student, **sizes), later),
            *((role, network, later) for role, network in build_embedding(plan).items()),
        ]
        if plan.correspondence.rounds > 0:
            own = CorrespondenceNetwork(plan.channels, plan.correspondence)
            networks.append((CORRESPONDENCE, own, learning))
    for name, network, rounds in networks:
        yield name, list(network.state_dict().values()), rounds


def _bytes_per_number(tensor: torch.Tensor, wire: Wire) -> int:
    return HALF.itemsize if wire == "float16-deltas" else tensor.element_size()
