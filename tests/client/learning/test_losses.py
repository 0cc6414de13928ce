"""Losses, on voxels that can be followed by hand."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from client.learning.losses import (
    cross_entropy,
    dice_loss,
    proximal_term,
    segmentation_loss,
    smooth_boundaries,
    smooth_doubtful,
)


def voxels(*rows: list[float]) -> Tensor:
    """(1, N, 1, 1, voxels) from the N class values of each voxel."""
    return torch.tensor(rows).T.reshape(1, len(rows[0]), 1, 1, len(rows))


def trust(*weights: float) -> Tensor:
    return torch.tensor(weights).reshape(1, 1, 1, len(weights))


def is_known(*rows: list[int]) -> Tensor:
    return voxels(*[[float(value) for value in row] for row in rows]).bool()


def softmax(values: list[float]) -> np.ndarray:
    powers = np.exp(values)
    return np.asarray(powers / powers.sum())


def gradient_of(loss: Tensor, logits: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(loss, logits)
    return gradient


LOGITS = [0.3, -1.2, 2.0]


def test_cross_entropy_where_all_is_known() -> None:
    value = cross_entropy(voxels(LOGITS), voxels([0.0, 1.0, 0.0]), trust(1.0), is_known([1, 1, 1]))
    assert float(value) == pytest.approx(-math.log(softmax(LOGITS)[1]), rel=1e-6)


def test_an_unknown_class_counts_as_background_in_the_cross_entropy() -> None:
    value = cross_entropy(voxels(LOGITS), voxels([1.0, 0.0, 0.0]), trust(1.0), is_known([1, 1, 0]))
    p = softmax(LOGITS)
    assert float(value) == pytest.approx(-math.log(p[0] + p[2]), rel=1e-6)


def test_what_the_target_gives_an_unknown_class_is_wanted_of_the_background() -> None:
    target = voxels([0.2, 0.5, 0.3])
    value = cross_entropy(voxels(LOGITS), target, trust(1.0), is_known([1, 1, 0]))
    p = softmax(LOGITS)
    wanted = -0.5 * math.log(p[0] + p[2]) - 0.5 * math.log(p[1])
    assert float(value) == pytest.approx(wanted, rel=1e-6)


def test_where_only_the_background_is_known_nothing_is_asked() -> None:
    logits = voxels(LOGITS).requires_grad_()
    value = segmentation_loss(logits, voxels([1.0, 0.0, 0.0]), trust(1.0), is_known([1, 0, 0]))
    assert float(value.detach()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(gradient_of(value, logits), torch.zeros_like(logits))


def test_cross_entropy_is_the_mean_over_the_weight() -> None:
    logits = voxels([0.0, 1.0], [2.0, 0.0], [0.0, 0.0])
    target = voxels([0.0, 1.0], [0.0, 1.0], [1.0, 0.0])
    value = cross_entropy(logits, target, trust(1.0, 0.5, 0.0), torch.ones_like(target).bool())
    first = -math.log(softmax([0.0, 1.0])[1])
    second = -math.log(softmax([2.0, 0.0])[1])
    assert float(value) == pytest.approx((first + 0.5 * second) / 1.5, rel=1e-6)


def test_a_silent_class_that_is_not_there_has_no_dice() -> None:
    logits = torch.randn(2, 3, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    silent = torch.cat([logits, torch.full_like(logits[:, :1], -1e4)], dim=1)
    target = torch.softmax(2 * logits, dim=1)
    absent = torch.cat([target, torch.zeros_like(target[:, :1])], dim=1)
    weight = torch.ones(2, 2, 2, 2)
    expected = dice_loss(logits, target, weight, torch.ones_like(target).bool())
    found = dice_loss(silent, absent, weight, torch.ones_like(absent).bool())
    torch.testing.assert_close(found, expected)


def test_dice_loss_by_hand() -> None:
    logits = voxels([0.0, 1.0, 0.0], [0.0, 0.0, 2.0])
    target = voxels([0.0, 1.0, 0.0], [0.5, 0.0, 0.5])
    value = dice_loss(logits, target, trust(1.0, 0.5), torch.ones_like(target).bool())
    p, q = softmax([0.0, 1.0, 0.0]), softmax([0.0, 0.0, 2.0])
    one = (2 * p[1] * 1 + 1) / ((p[1] + 1) + 0.5 * q[1] + 1)
    two = (2 * 0.5 * q[2] * 0.5 + 1) / (p[2] + 0.5 * (q[2] + 0.5) + 1)
    assert float(value) == pytest.approx(1 - (one + two) / 2, rel=1e-6)


def test_an_unknown_class_is_left_out_of_the_dice() -> None:
    logits = voxels(LOGITS)
    target = voxels([0.0, 1.0, 0.0])
    value = dice_loss(logits, target, trust(1.0), is_known([1, 1, 0]))
    p = softmax(LOGITS)
    assert float(value) == pytest.approx(1 - (2 * p[1] + 1) / (p[1] + 2), rel=1e-6)


def test_a_class_known_in_one_voxel_is_judged_there_alone() -> None:
    logits, target = voxels(LOGITS, [5.0, 5.0, 5.0]), voxels([0.0, 0.0, 1.0], [1.0, 0.0, 0.0])
    known = is_known([1, 0, 1], [1, 0, 0])
    alone = dice_loss(logits[..., :1], target[..., :1], trust(1.0), known[..., :1])
    torch.testing.assert_close(dice_loss(logits, target, trust(1.0, 1.0), known), alone)


def test_a_perfect_answer_costs_nothing() -> None:
    target = voxels([1.0, 0.0], [0.0, 1.0])
    value = segmentation_loss(
        60 * (target - 0.5), target, trust(1.0, 1.0), torch.ones_like(target).bool()
    )
    assert float(value) == pytest.approx(0, abs=1e-6)


def test_voxels_that_weigh_nothing_give_no_gradient() -> None:
    logits = voxels([0.3, -0.2], [1.0, 0.5], [0.1, 0.9]).requires_grad_()
    target = voxels([0.0, 1.0], [0.0, 0.0], [1.0, 0.0])
    value = segmentation_loss(logits, target, trust(1.0, 0.0, 0.3), torch.ones_like(target).bool())
    per_voxel = gradient_of(value, logits).abs().sum(1).flatten()
    assert (per_voxel > 0).tolist() == [True, False, True]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_batch_of_nothing_known_has_no_loss_and_no_gradient(weight: float) -> None:
    logits = 30 * torch.randn(2, 4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    logits = logits.requires_grad_()
    target = torch.zeros(2, 4, 3, 3, 3)
    known = torch.zeros(2, 4, 3, 3, 3, dtype=torch.bool)
    known[:, 0] = True
    value = segmentation_loss(logits, target, torch.full((2, 3, 3, 3), weight), known)
    assert float(value.detach()) == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(gradient_of(value, logits), torch.zeros_like(logits))


def test_extreme_logits_stay_finite() -> None:
    logits = voxels([1e4, -1e4, 0.0], [-1e4, 1e4, 1e4]).requires_grad_()
    target = voxels([0.0, 1.0, 0.0], [1.0, 0.0, 0.0])
    value = segmentation_loss(logits, target, trust(1.0, 1.0), is_known([1, 1, 0], [1, 0, 1]))
    assert torch.isfinite(value)
    assert torch.isfinite(gradient_of(value, logits)).all()


def test_smoothing_leaves_expert_voxels_as_painted() -> None:
    target = voxels([0.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0])
    known = is_known([1, 1, 1], [1, 1, 1], [1, 1, 0])
    nobody = trust(0.0, 0.0, 0.0).bool()
    smooth = smooth_doubtful(target, trust(1.0, 0.5, 0.0), nobody, known, 0.3)
    # The uniform part is 0.3 * (1 - weight), over three or two known classes.
    wanted = voxels([0.0, 1.0, 0.0], [0.05, 0.9, 0.05], [0.15, 0.85, 0.0])
    torch.testing.assert_close(smooth, wanted)
    assert torch.equal(smooth[..., 0], target[..., 0])
    torch.testing.assert_close(smooth.sum(1), torch.ones(1, 1, 1, 3))
    # Half a weight on a painted voxel comes from turning the patch.
    second = trust(0.0, 1.0, 0.0).bool()
    turned = smooth_doubtful(target, trust(1.0, 0.5, 0.0), second, known, 0.3)
    assert torch.equal(turned[..., :2], target[..., :2])
    assert torch.equal(turned[..., 2], smooth[..., 2])


def all_of(target: Tensor) -> Tensor:
    return torch.ones_like(target, dtype=torch.bool)


def test_a_boundary_is_soft_and_the_inside_is_not() -> None:
    # Along one axis: background up to the tenth voxel, the structure from there on.
    inside = (torch.arange(20) >= 10).float()
    target = torch.stack([1 - inside, inside])[None, :, None, None]
    weight = torch.ones(1, 1, 1, 20)
    smooth = smooth_boundaries(target, weight, all_of(target), 1.0)
    torch.testing.assert_close(smooth.sum(1), weight)
    # Half a voxel from the boundary, and a voxel and a half: by the normal distribution, voxel by
    # voxel 0.5 + the integral to 0.5, and to 1.5.
    torch.testing.assert_close(
        smooth[0, 1, 0, 0, 10:12], torch.tensor([0.691, 0.933]), atol=5e-3, rtol=0
    )
    torch.testing.assert_close(
        smooth[0, 0, 0, 0, 8:10], torch.tensor([0.933, 0.691]), atol=5e-3, rtol=0
    )
    assert torch.equal(smooth[..., :6], target[..., :6])
    assert torch.equal(smooth[..., 14:], target[..., 14:])
    assert smooth_boundaries(target, weight, all_of(target), 0) is target


def test_a_painted_slice_is_blurred_within_itself() -> None:
    target, weight = torch.zeros(1, 2, 8, 8, 3), torch.zeros(1, 8, 8, 3)
    target[:, 1, :4, :, 1], target[:, 0, 4:, :, 1] = 1, 1
    weight[..., 1] = 0.5
    elsewhere = target.clone()
    elsewhere[:, 0, :, :, 0] = 1  # without weight: it is no label
    smooth = smooth_boundaries(target, weight, all_of(target), 1.0)
    torch.testing.assert_close(smooth[..., 1].sum(1), torch.ones(1, 8, 8))
    torch.testing.assert_close(
        smooth_boundaries(elsewhere, weight, all_of(target), 1.0)[..., 1], smooth[..., 1]
    )
    assert 0.5 < float(smooth[0, 1, 3, 4, 1]) < 0.75


def test_where_nobody_looked_for_a_class_there_is_no_boundary_of_it() -> None:
    # The structure fills all; on the second half nobody looked for it.
    inside = (torch.arange(20) < 10).float()
    target = torch.stack([1 - inside, inside])[None, :, None, None]
    known = torch.stack([torch.ones(20), inside])[None, :, None, None].bool()
    smooth = smooth_boundaries(target, torch.ones(1, 1, 1, 20), known, 2.0)
    torch.testing.assert_close(smooth, target)


def test_the_proximal_term_by_hand() -> None:
    own = [torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]
    shared = [torch.tensor([0.0, 4.0]), torch.tensor([[1.0]])]
    # (1 + 4 + 4) * mu / 2
    assert float(proximal_term(own, shared, 0.2)) == pytest.approx(0.9)
    assert proximal_term(own, shared, 0) == 0
    assert float(proximal_term(own, own, 5)) == 0


def test_the_proximal_term_pulls_towards_the_global_weights() -> None:
    own, shared = torch.tensor([3.0, -1.0], requires_grad=True), torch.tensor([1.0, 1.0])
    value = proximal_term([own], [shared], 0.5)
    assert isinstance(value, Tensor)
    torch.testing.assert_close(gradient_of(value, own), torch.tensor([1.0, -1.0]))
