"""The segmenter and the student: one kind of network at two sizes.

MONAI's residual U-Net with instance norm: there are no running statistics to average, and it is the
one 3D network of MONAI that takes per-sample gradients (differential privacy) as it is.
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from monai.networks.layers.simplelayers import SkipConnection
from monai.networks.nets import UNet
from torch import Tensor
from torch.nn import Module, Sequential

from common.plan import FederationPlan, NetworkSize
from common.random_streams import stream_seed
from common.updates import Arrays

SEGMENTER, STUDENT = "segmenter", "student"
SILENT = -1e4  # added to a logit: its probability is 0, and half precision still holds it


def build_unet(size: NetworkSize, *, in_channels: int, num_classes: int) -> UNet:
    """A U-Net from (B, in_channels, I, J, K) to logits (B, num_classes, I, J, K)."""
    network = UNet(
        spatial_dims=3,
        in_channels=in_channels,
        out_channels=num_classes,
        channels=size.channels,
        strides=size.strides,
        num_res_units=size.residual_units,
        norm="instance",
    )
    # Laid out so, a training step takes three quarters of the time on a processor.
    network.to(memory_format=torch.channels_last_3d)
    return network


def num_last_features(size: NetworkSize) -> int:
    """The channels of what `features_and_logits` calls features."""
    below = size.channels[0] if len(size.channels) > 2 else size.channels[1]
    return size.channels[0] + below


def features_and_logits(network: Module, image: Tensor) -> tuple[Tensor, Tensor]:
    """What the topmost layer of a U-Net's way up gets, (B, F, ...), and the logits it makes of it.

    The features lie on the grid of the first stride: of the two layers that follow there, both
    already have one channel per class.
    """
    layers = network.model
    assert isinstance(layers, Sequential)  # down, all that lies below with its shortcut, up
    features = layers[:-1](image)
    return features, layers[-1](features)


def way_up(network: Module, image: Tensor, *, levels: int) -> tuple[list[Tensor], Tensor]:
    """What the topmost `levels` layers of a U-Net's way up get, the finest last; and its output.

    Fewer where the network has fewer.
    """
    layers = network.model
    assert isinstance(layers, Sequential)
    return _through(layers, image, levels)


def _through(layers: Sequential, image: Tensor, levels: int) -> tuple[list[Tensor], Tensor]:
    down, below, up = layers
    assert isinstance(below, SkipConnection)
    own, inner, coarser = down(image), below.submodule, list[Tensor]()
    # The innermost is a plain layer without a way up.
    if isinstance(inner, Sequential) and any(isinstance(one, SkipConnection) for one in inner):
        coarser, found = _through(inner, own, levels - 1)
    else:
        found = inner(own)
    joined = torch.cat([own, found], dim=1)
    return ([*coarser, joined] if levels > 0 else []), up(joined)


def build_networks(plan: FederationPlan, round_number: int | None = None) -> dict[str, UNet]:
    """Both federated networks, their first weights drawn from the plan's seed.

    Classes that no task has taught up to the round (none: by the end of the plan) are silent: the
    networks have their channels, which win nothing and learn nothing. A class that shares in the
    background's probability until its stage comes becomes a copy of it, and is learnt late.
    """
    silent = plan.untaught_indexes(plan.num_rounds if round_number is None else round_number)
    networks = {}
    for role, size in ((SEGMENTER, plan.segmenter), (STUDENT, plan.student)):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(plan.seed, "first weights", role))
            networks[role] = build_unet(
                size, in_channels=plan.channels, num_classes=plan.num_classes
            )
        keep_silent(networks[role], silent)
    return networks


def keep_silent(network: UNet, classes: Sequence[int]) -> None:
    """From now on these classes have a probability of 0, and no gradient reaches their logits."""
    if classes:
        # Of the topmost layer: `features_and_logits` and whatever exports a network go through it.
        network.model[-1].register_forward_hook(partial(_without, tuple(classes)))


def _without(classes: tuple[int, ...], _layer: Module, _features: object, logits: Tensor) -> Tensor:
    lowered = [SILENT * (index in classes) for index in range(logits.shape[1])]
    return logits + logits.new_tensor(lowered)[:, None, None, None]


def networks_to_arrays(networks: Mapping[str, torch.nn.Module]) -> Arrays:
    """All weights under prefixed names, copied to the CPU."""
    return {
        f"{role}/{name}": tensor.detach().cpu().numpy().copy()
        for role, network in networks.items()
        for name, tensor in network.state_dict().items()
    }


def load_arrays(network: torch.nn.Module, arrays: Arrays, role: str) -> None:
    """Sets a network's weights from the entries of `arrays` that carry its prefix."""
    prefix = f"{role}/"
    weights = {
        name.removeprefix(prefix): torch.from_numpy(np.array(array))
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
    network.load_state_dict(weights)


def count_parameters(arrays: Arrays, role: str) -> int:
    """Number of weights of one network."""
    return sum(array.size for name, array in arrays.items() if name.startswith(f"{role}/"))
