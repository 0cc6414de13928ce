"""Hints: whom they teach, where they count, and how they grow."""

import pytest
import torch
from monai.networks.nets import UNet
from torch import Tensor
from torch.nn import Module

from client.distillation.hints import (
    build_teacher,
    hint_loss,
    ramped_hint,
    reconstruction_loss,
    where_alike,
)
from client.distillation.learn_from_pairs import HINTED_LEVELS, pairs_term
from client.distillation.pairs import Pair
from client.distillation.registration import build_registration
from common.learning_settings import Distillation, Training
from common.networks.unet import STUDENT, build_networks, way_up
from common.plan import FederationPlan

CPU = torch.device("cpu")
TRAINING = Training(patch_size=(8, 8, 8))
EVERYWHERE = torch.ones(1, 1, 2, 2, 2)


def features(*channels: float) -> Tensor:
    return torch.tensor(channels)[None, :, None, None, None].expand(1, len(channels), 2, 2, 2)


def has_gradient(network: Module) -> bool:
    gradients = [one.grad for one in network.parameters()]
    return any(one is not None and bool(one.abs().sum() > 0) for one in gradients)


@pytest.fixture
def student(plan: FederationPlan) -> UNet:
    return build_networks(plan)[STUDENT]


def test_the_hint_teaches_the_student_and_not_the_teacher(
    plan: FederationPlan, student: UNet, pair: Pair
) -> None:
    teacher = build_teacher(plan)
    wanted, _ = way_up(teacher, pair.fixed, levels=HINTED_LEVELS)
    own, _ = way_up(student, pair.moving.image, levels=HINTED_LEVELS)
    assert all(one.requires_grad for one in wanted)
    hint_loss(wanted, own, torch.ones_like(pair.fixed)).backward()
    assert has_gradient(student)
    assert not has_gradient(teacher)


def test_rebuilding_teaches_the_teacher(plan: FederationPlan, student: UNet, pair: Pair) -> None:
    teacher = build_teacher(plan)
    alone = Distillation(pairs=1.0, hint=0.0)
    for settings, learns in ((alone, False), (Distillation(pairs=1.0, hint=1.0), True)):
        term = pairs_term(
            build_registration(plan),
            teacher,
            iter([pair]),
            settings,
            TRAINING,
            share_of_stage_done=1.0,
            device=CPU,
        )
        assert (teacher in term.trained_with) is learns
        term.loss(student).backward()
        assert has_gradient(teacher) is learns


def test_a_hint_is_the_cosine_of_a_voxels_channels() -> None:
    # Alike but for their length: 0; at right angles: 1; opposite: 2. Levels add up.
    same, right, opposite = features(0.0, 2.0), features(3.0, 0.0), features(0.0, -1.0)
    wanted = features(0.0, 1.0)
    losses = [hint_loss([wanted], [own], EVERYWHERE) for own in (same, right, opposite)]
    assert [float(one) for one in losses] == pytest.approx([0, 1, 2], abs=1e-6)
    both = hint_loss([wanted, wanted], [right, opposite], EVERYWHERE)
    assert float(both) == pytest.approx(3)


def test_a_hint_counts_where_the_scans_agree() -> None:
    wanted, own = features(0.0, 1.0).clone(), features(0.0, 1.0).clone()
    own[..., 1] = -own[..., 1]
    agrees = EVERYWHERE.clone()
    agrees[..., 1] = 0
    assert float(hint_loss([wanted], [own], agrees)) == pytest.approx(0, abs=1e-6)
    assert float(hint_loss([wanted], [own], EVERYWHERE)) == pytest.approx(1)
    assert float(hint_loss([wanted], [own], EVERYWHERE * 0)) == 0


def test_a_coarser_voxel_counts_by_its_share() -> None:
    wanted, own = features(0.0, 1.0).clone(), features(0.0, 1.0).clone()
    own[..., 1] = -own[..., 1]
    # On a grid twice as fine: all of the first half agrees, a quarter of the second.
    fine = torch.ones(1, 1, 4, 4, 4)
    fine[..., 2:] = 0
    fine[:, :, ::2, :, 2] = 1
    # 4 whole voxels at 0 and 4 quarters at 2.
    assert float(hint_loss([wanted], [own], fine)) == pytest.approx(4 * 0.25 * 2 / (4 + 1))


def test_scans_agree_where_no_channel_differs_much() -> None:
    real = torch.zeros(1, 2, 1, 1, 3)
    warped = real.clone()
    warped[0, 0, 0, 0] = torch.tensor([0.4, -0.6, 0.0])
    warped[0, 1, 0, 0] = torch.tensor([0.1, 0.0, 0.5])
    assert where_alike(warped, real, within=0.5).flatten().tolist() == [1, 0, 0]


def test_reconstruction_is_the_mean_distance() -> None:
    assert float(reconstruction_loss(features(1.0), features(-2.0))) == 3


def test_the_hint_rises_to_its_weight() -> None:
    rising = [ramped_hint(4.0, 0.2, done) for done in (0.0, 0.1, 0.2, 1.0)]
    assert rising == pytest.approx([0, 2, 4, 4])


def test_the_teacher_begins_the_same_everywhere(plan: FederationPlan) -> None:
    one, other = build_teacher(plan), build_teacher(plan)
    assert all(
        torch.equal(*both) for both in zip(one.parameters(), other.parameters(), strict=True)
    )
    image = torch.randn(2, plan.channels, *plan.training.patch_size)
    assert one(image).shape == image.shape
