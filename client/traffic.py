"""What a plan makes a hospital send: how many tensors and numbers, how large, how often."""

from dataclasses import dataclass

import torch

from common.networks.correspondence import CorrespondenceNetwork
from common.networks.embedding import build_embedding
from common.networks.unet import SEGMENTER, STUDENT, build_unet
from common.plan import FederationPlan
from common.updates import CORRESPONDENCE


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
    return tuple(_traffic(name, network, rounds) for name, network, rounds in networks)


def message_bytes(plan: FederationPlan) -> int:
    """What the tensors of the largest message of a plan weigh: all its networks together."""
    return sum(one.num_bytes for one in traffic_of(plan))


def _traffic(name: str, network: torch.nn.Module, rounds: int) -> NetworkTraffic:
    tensors = list(network.state_dict().values())
    return NetworkTraffic(
        name,
        len(tensors),
        sum(tensor.numel() for tensor in tensors),
        sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        rounds,
    )
