"""The correspondence network: from a slice's edges to one descriptor per pixel.

Two pixels of neighbouring slices belong together when their descriptors are alike. After OneSeg (Wu
et al., MICCAI 2022) and Sli2Vol (Yeung et al., MICCAI 2021); re-implementation after the published
descriptions. It never sees grey values, only edge profiles: with grey values it would rebuild a
slice by matching brightness and learn nothing of anatomy.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import Conv2d, LeakyReLU, Module, Parameter, Sequential

from common.plan import Correspondence
from common.random_streams import stream_seed
from common.updates import CORRESPONDENCE


class CorrespondenceNetwork(Module):
    """From slices (B, C, H, W) to descriptors (B, D, H, W) of one learned length each.

    Without down-sampling: a descriptor belongs to one pixel.
    """

    def __init__(self, channels: int, settings: Correspondence) -> None:
        """`channels` of the scans; `settings` give the sizes."""
        super().__init__()
        self.radius = settings.edge_radius_voxels
        self.gain = settings.edge_gain
        width = settings.channels
        profile = channels * ((2 * self.radius + 1) ** 2 - 1)
        layers: list[Module] = [Conv2d(profile, width, 1)]
        for _ in range(settings.layers):
            convolution = Conv2d(width, width, 3, padding=1, padding_mode="replicate")
            layers += [LeakyReLU(0.1), convolution]
        layers += [LeakyReLU(0.1), Conv2d(width, settings.descriptor_length, 1)]
        self.layers = Sequential(*layers)
        # The descriptors' length is the sharpness of the matching: about 4 to begin with.
        self.log_length = Parameter(torch.tensor(1.4))

    def forward(self, slices: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """The descriptors."""
        profile = edge_profile(slices, self.radius, self.gain)
        # A share of 1/24 or 1/48 each is small for a convolution; ten times as much trains faster.
        return F.normalize(self.layers(10 * profile), dim=1) * self.log_length.exp()


def edge_profile(
    slices: Float[Tensor, "b c h w"], radius: int, gain: float
) -> Float[Tensor, "b p h w"]:
    """Each pixel's differences to its neighbours, soft-maxed: where edges lie, not how bright.

    Scans have intensities around 0 with a spread of 1. Without the `gain` their profile would be
    flat (3.86 of at most 3.87 nats on a 7 x 7 window) and nothing could be learned.
    """
    height, width = slices.shape[2:]
    side = 2 * radius + 1
    padded = F.pad(slices, (radius,) * 4, mode="replicate")
    columns = F.unfold(rearrange(padded, "b c h w -> (b c) 1 h w"), side)
    neighbours = rearrange(columns, "(b c) k (h w) -> b c k h w", b=len(slices), h=height, w=width)
    middle = side * side // 2
    others = torch.cat([neighbours[:, :, :middle], neighbours[:, :, middle + 1 :]], dim=2)
    profile = torch.softmax(gain * (slices[:, :, None] - others), dim=2)
    return rearrange(profile, "b c k h w -> b (c k) h w")


def build_correspondence(
    channels: int, settings: Correspondence, seed: int
) -> CorrespondenceNetwork:
    """The network with its first weights drawn from the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "first weights", CORRESPONDENCE))
        return CorrespondenceNetwork(channels, settings)
