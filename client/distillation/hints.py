"""Hints: the student's features are drawn to those of a teacher that rebuilds real scans.

After OS-MedSeg (Zhou et al., 2024); re-implementation after the published description, with the
cosine of each voxel's channels in place of one over the whole tensor. The released classes store
both sides' features detached, so that their hint teaches nothing; here the teacher's alone are.
The student sees the warped scan and the teacher the real one, so a hint counts where these agree.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from monai.networks.nets import UNet
from torch import Tensor

from common.networks.unet import build_unet
from common.plan import FederationPlan
from common.random_streams import stream_seed

TEACHER = "teacher"


def build_teacher(plan: FederationPlan) -> UNet:
    """A network like the student that rebuilds its input; first weights from the plan's seed.

    The same at all hospitals, so that their teachers do not begin by saying different things to
    the one student.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(plan.seed, "first weights", TEACHER))
        return build_unet(plan.student, in_channels=plan.channels, num_classes=plan.channels)


def reconstruction_loss(
    rebuilt: Float[Tensor, "b c i j k"], image: Float[Tensor, "b c i j k"]
) -> Tensor:
    """Mean absolute difference."""
    return F.l1_loss(rebuilt.float(), image.float())


def where_alike(
    warped: Float[Tensor, "b c i j k"], real: Float[Tensor, "b c i j k"], within: float
) -> Float[Tensor, "b 1 i j k"]:
    """1 where no channel of the two differs by `within` or more, 0 elsewhere."""
    return ((warped - real).abs().amax(1, keepdim=True) < within).float()


def hint_loss(
    teacher: Sequence[Tensor], student: Sequence[Tensor], counts: Float[Tensor, "b 1 i j k"]
) -> Tensor:
    """Sum over levels of 1 - cosine of the channels, its mean over voxels that count; 0 for none.

    Features are (B, F, ...), each level with channels and a grid of its own; the teacher's give no
    gradient. On a coarser grid a voxel counts by the share of its finer ones that do.
    """
    terms = []
    for wanted, own in zip(teacher, student, strict=True):
        share = F.adaptive_avg_pool3d(counts, (*own.shape[2:],))[:, 0]
        unlike = 1 - F.cosine_similarity(own.float(), wanted.detach().float(), dim=1)
        terms.append((share * unlike).sum() / share.sum().clamp_min(1e-6))
    return torch.stack(terms).sum()


def ramped_hint(weight: float, ramp_share: float, share_of_stage_done: float) -> float:
    """Rises in a straight line from 0 to the full weight over the first part of a stage."""
    return weight * min(share_of_stage_done / ramp_share, 1.0)
