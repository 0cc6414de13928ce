"""The student's term on warped scans: their labels, and the hints of a teacher."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import Module

from client.distillation.hints import hint_loss, ramped_hint, reconstruction_loss, where_alike
from client.distillation.pairs import Pair
from client.distillation.warped import warp_pair
from client.learning.train_models import StudentTerm, label_loss
from common.learning_settings import Distillation, Training
from common.networks.unet import way_up

HINTED_LEVELS = 2


def pairs_term(  # noqa: PLR0913  (what a hospital has of its own, and the settings of it)
    registration: Module,
    teacher: Module,
    pairs: Iterator[Pair],
    distillation: Distillation,
    training: Training,
    *,
    share_of_stage_done: float,
    device: torch.device,
) -> StudentTerm:
    """The term, which takes the next of `pairs` each time.

    The registration network is used as it is; the teacher is trained with the student, on the fixed
    patches, if there are hints.
    """
    registration.to(device).eval()
    ramp = distillation.hint_ramp_share
    weight_of_hint = ramped_hint(distillation.hint, ramp, share_of_stage_done)

    def loss(student: Module) -> Tensor:
        pair = next(pairs).to(device)
        warped = warp_pair(registration, pair)
        own, logits = way_up(student, warped.image, levels=HINTED_LEVELS)
        value = distillation.pairs * label_loss(logits, warped, training)
        if distillation.hint == 0:
            return value
        wanted, rebuilt = way_up(teacher, pair.fixed, levels=HINTED_LEVELS)
        alike = where_alike(warped.image, pair.fixed, distillation.hint_within)
        hint = weight_of_hint * hint_loss(wanted, own, alike)
        return value + hint + reconstruction_loss(rebuilt, pair.fixed)

    return StudentTerm([teacher] if distillation.hint > 0 else [], loss)
