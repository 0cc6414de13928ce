"""A hospital's registration network: where each voxel of one patch lies in another.

OS-MedSeg (Zhou et al., 2024) makes training pairs with such a network. VoxelMorph (Balakrishnan et
al., 2019) from MONAI's pieces, without integration; re-implementation after the published
descriptions. It learns from images alone, and never leaves the hospital.
"""

import warnings
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from monai.losses.image_dissimilarity import LocalNormalizedCrossCorrelationLoss
from monai.networks.blocks.warp import Warp
from monai.networks.nets.voxelmorph import VoxelMorphUNet
from torch import Tensor
from torch.nn import Module

from client.distillation.pairs import Pair
from client.learning.train import train
from common.learning_settings import Training
from common.plan import FederationPlan
from common.random_streams import stream_seed

REGISTRATION = "registration"

Images = Float[Tensor, "b c i j k"]
# Voxels of the moving patch, along each axis.
Displacement = Float[Tensor, "b 3 i j k"]

# The displacement is found on half the grid: it is smooth, and costs an eighth there. Down and up,
# from the finest level on; each level below halves the grid again.
CHANNELS = (8, 16, 16, 32)
FINEST_CHANNELS = 16
COARSEST = 2 ** (len(CHANNELS) // 2)
WINDOW_VOXELS = 5
SMOOTHNESS = 1.0


class Registration(Module):
    """From a moving and a fixed patch to the displacement that makes the first like the second."""

    def __init__(self, channels: int) -> None:
        """`channels` of the scans."""
        super().__init__()
        self.backbone = VoxelMorphUNet(
            spatial_dims=3,
            in_channels=2 * channels,
            unet_out_channels=FINEST_CHANNELS,
            channels=CHANNELS,
            final_conv_channels=(FINEST_CHANNELS,),
        )
        # It begins by moving next to nothing.
        last = [one for one in self.backbone.modules() if isinstance(one, torch.nn.Conv3d)][-1]
        torch.nn.init.normal_(last.weight, std=1e-5)
        assert last.bias is not None
        torch.nn.init.zeros_(last.bias)

    def forward(self, moving: Images, fixed: Images) -> Displacement:
        """For each voxel of the fixed patch, how far from it its like lies in the moving one."""
        size = moving.shape[2:]
        half = [(n + 1) // 2 for n in size]
        both = _resize(torch.cat([moving, fixed], dim=1), half)
        missing = [side for n in reversed(half) for side in (0, -n % COARSEST)]
        found = self.backbone(F.pad(both, missing, mode="replicate"))
        i, j, k = half
        return 2 * _resize(found[..., :i, :j, :k].float(), size)


def _resize(values: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(values, size=list(size), mode="trilinear", align_corners=False)


def build_registration(plan: FederationPlan) -> Registration:
    """The network with its first weights drawn from the plan's seed, the same at all hospitals."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(plan.seed, "first weights", REGISTRATION))
        return Registration(plan.channels)


def train_registration(
    network: Registration,
    pairs: Iterable[Pair],
    settings: Training,
    *,
    learning_rate: float,
    device: torch.device,
) -> float | None:
    """Trains in place to make each moving patch like its fixed one; the mean loss."""

    def loss(network: Module, pair: Pair) -> Tensor:
        displacement = network(pair.moving.image, pair.fixed)
        return registration_loss(displacement, pair.moving.image, pair.fixed)

    return train(network, pairs, loss, settings, learning_rate=learning_rate, device=device)


def registration_loss(displacement: Displacement, moving: Images, fixed: Images) -> Tensor:
    """How unlike the warped and the fixed patch are, and how rough the displacement is.

    Likeness is the local correlation, which does not mind that scans differ in brightness.
    """
    # Half a voxel is lost in half precision.
    with torch.autocast(moving.device.type, enabled=False):
        unlike = LocalNormalizedCrossCorrelationLoss(kernel_size=WINDOW_VOXELS)
        value: Tensor = unlike(warp(moving, displacement), fixed)
        return value + SMOOTHNESS * roughness(displacement)


def roughness(displacement: Displacement) -> Tensor:
    """Mean square of the displacement's slope, added over the axes; one voxel has none.

    MONAI's own loss indexes with lists, which PyTorch no longer promises to understand.
    """
    slopes = [torch.diff(displacement, dim=axis) for axis in (2, 3, 4)]
    return torch.stack([one.square().sum() / max(one.numel(), 1) for one in slopes]).sum()


def warp(values: Images, displacement: Displacement, *, outside: str = "border") -> Images:
    """What lies at the displaced places; beyond the edge the edge goes on, or there are "zeros"."""
    with warnings.catch_warnings():
        # It tells of every one that is built that MONAI's own kernels were not compiled.
        warnings.simplefilter("ignore", UserWarning)
        moving = Warp(mode="bilinear", padding_mode=outside)
    moved: Tensor = moving(values.float(), displacement)
    return moved
