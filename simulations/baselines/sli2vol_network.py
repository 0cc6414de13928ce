"""The network of Sli2Vol: edge profiles in, features out, and the affinity between two slices.

Own code after the published description and recipe (Yeung, Namburete, Xie, "Sli2Vol: Annotate a 3D
Volume from a Single Slice with Self-supervised Learning", MICCAI 2021).
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

PROFILE_RADIUS = 3  # 7 x 7 pixels, 48 of them around the centre
WINDOW_RADIUS = 6  # 13 x 13 pixels of the source slice
STAGES = (16, 32, 64, 128)
FEATURES = 64
# How far a pixel's features see: the profile, the stem, 17 convolutions of 3 x 3.
SIGHT_VOXELS = PROFILE_RADIUS + 3 + 17


def edge_profile(grey: Float[Tensor, "b h w"]) -> Float[Tensor, "b 48 h w"]:
    """For every pixel the softmax over its differences to the 48 pixels around it.

    The bottleneck of the method: an encoder that never sees intensity cannot rebuild a slice by
    copying it. Intensities must lie in about [0, 255]; within a range of one or two, as z-scores
    have, all profiles are nearly uniform and show nothing.
    """
    height, width = grey.shape[1:]
    size = 2 * PROFILE_RADIUS + 1
    padded = F.pad(grey[:, None], (PROFILE_RADIUS,) * 4, mode="replicate")
    around = rearrange(F.unfold(padded, size), "b k (h w) -> b k h w", h=height, w=width)
    centre = size * size // 2
    neighbours = torch.cat([around[:, :centre], around[:, centre + 1 :]], dim=1)
    return torch.softmax(grey[:, None] - neighbours, dim=1)


class Block(nn.Module):
    """Two convolutions and a way around them, as in ResNet-18."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        """A block between two numbers of channels."""
        super().__init__()
        self.around = nn.Sequential()
        if channels_in != channels_out:
            narrow = nn.Conv2d(channels_in, channels_out, 1, bias=False)
            self.around = nn.Sequential(narrow, nn.BatchNorm2d(channels_out))
        self.through = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b e h w"]:
        """The sum of both ways."""
        return F.relu(self.through(x) + self.around(x))


class Encoder(nn.Module):
    """Edge profiles of slices to features at full resolution: 811,168 parameters."""

    def __init__(self) -> None:
        """ResNet-18's four stages of two blocks, without its strides."""
        super().__init__()
        channels = 4 * PROFILE_RADIUS * (PROFILE_RADIUS + 1)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, STAGES[0], 7, padding=3, bias=False),
            nn.BatchNorm2d(STAGES[0]),
            nn.ReLU(),
        ]
        before = STAGES[0]
        for stage in STAGES:
            layers += [Block(before, stage), Block(stage, stage)]
            before = stage
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, FEATURES, 3, padding=1))

    def forward(self, grey: Float[Tensor, "b h w"]) -> Float[Tensor, "b 64 h w"]:
        """Features of slices with intensities in [0, 255]."""
        features: Tensor = self.layers(edge_profile(grey))
        return features


def slice_affinity(
    target: Float[Tensor, "b c h w"], source: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b 169 h w"]:
    """For each target pixel, the weights of the source pixels in the window; no temperature."""
    products = [(target * shifted).sum(1) for shifted in _shifts(source)]
    return torch.softmax(torch.stack(products, dim=1), dim=1)


def apply_affinity(
    affinity: Float[Tensor, "b 169 h w"], source: Float[Tensor, "b n h w"]
) -> Float[Tensor, "b n h w"]:
    """The affinity-weighted sum of the source's values; beyond its edge they are 0."""
    rebuilt = torch.zeros_like(source)
    for weights, shifted in zip(affinity.unbind(1), _shifts(source), strict=True):
        rebuilt = rebuilt + weights[:, None] * shifted
    return rebuilt


def _shifts(source: Float[Tensor, "b c h w"]) -> list[Tensor]:
    """The 169 shifted views of a zero-padded image, row by row. Views: nothing is copied."""
    height, width = source.shape[2:]
    padded = F.pad(source, (WINDOW_RADIUS,) * 4)
    size = range(2 * WINDOW_RADIUS + 1)
    return [padded[:, :, y : y + height, x : x + width] for y in size for x in size]
