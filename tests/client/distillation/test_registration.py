"""The registration network: what it begins with, what it learns, where it looks."""

import pytest
import torch
from torch import Tensor

from client.distillation.pairs import Pair
from client.distillation.registration import (
    Registration,
    build_registration,
    registration_loss,
    roughness,
    train_registration,
    warp,
)
from common.learning_settings import Training
from common.plan import FederationPlan

CPU = torch.device("cpu")


def shift(by: float, size: tuple[int, ...]) -> Tensor:
    """A displacement of `by` voxels along the first axis, everywhere."""
    moved = torch.zeros(1, 3, *size)
    moved[:, 0] = by
    return moved


def test_it_begins_by_moving_next_to_nothing(pair: Pair) -> None:
    displacement = Registration(channels=1)(pair.moving.image, pair.fixed)
    assert displacement.shape == (1, 3, 8, 8, 8)
    assert 0 < displacement.abs().max() < 1e-2


def test_patches_of_any_side_are_registered() -> None:
    moving, fixed = torch.randn(2, 2, 2, 5, 9, 12)
    assert Registration(channels=2)(moving, fixed).shape == (2, 3, 5, 9, 12)


def test_a_displacement_says_where_a_voxels_like_lies() -> None:
    # What lies at voxel 4 of the moving patch comes to voxel 3 if that looks one further.
    ramp = torch.arange(6.0)[None, None, :, None, None].expand(1, 1, 6, 4, 4)
    moved = warp(ramp, shift(1.0, (6, 4, 4)))
    assert moved[0, 0, :, 0, 0].tolist() == pytest.approx([1, 2, 3, 4, 5, 5])
    outside = warp(ramp, shift(1.0, (6, 4, 4)), outside="zeros")
    assert outside[0, 0, :, 0, 0].tolist() == pytest.approx([1, 2, 3, 4, 5, 0])


def test_the_right_displacement_costs_less_than_none(pair: Pair) -> None:
    # The fixed block lies one further, so its voxels look one back.
    right, none = (
        registration_loss(shift(by, (8, 8, 8)), pair.moving.image, pair.fixed) for by in (-1.0, 0.0)
    )
    assert right < none


def test_roughness_is_the_mean_square_of_the_slopes() -> None:
    # 2 voxels more with every voxel of the first axis, in one of three directions.
    slope = torch.zeros(1, 3, 4, 1, 5)
    slope[:, 1] = 2 * torch.arange(4.0)[None, :, None, None]
    assert float(roughness(slope)) == pytest.approx(4 / 3)
    assert float(roughness(slope[:, :, :1])) == 0


def test_it_learns_to_find_the_way(pair: Pair, plan: FederationPlan) -> None:
    network = build_registration(plan)
    settings = Training(patch_size=(8, 8, 8), weight_decay=0.0)

    def distance() -> float:
        with torch.no_grad():
            found = warp(pair.moving.image, network(pair.moving.image, pair.fixed))
        return float((found - pair.fixed).abs().mean())

    before = distance()
    train_registration(network, [pair] * 40, settings, learning_rate=5e-3, device=CPU)
    assert distance() < 0.5 * before


def test_the_seed_alone_fixes_the_first_weights(plan: FederationPlan) -> None:
    torch.manual_seed(1)
    one = build_registration(plan).state_dict()
    torch.manual_seed(2)
    other = build_registration(plan).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
