"""What becomes of labels and weights when patches are warped."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Module

from client.distillation.pairs import Pair
from client.distillation.warped import warp_batch, warp_pair
from client.learning.batches import Batch

MakeBatch = Callable[..., Batch]


class Shift(Module):
    """A registration that always moves along the first axis, as far as the pair's patches lie."""

    def forward(self, moving: Tensor, fixed: Tensor) -> Tensor:
        places = torch.arange(8.0)[None, None, :, None, None]
        at = [(places * one).sum((1, 2, 3, 4)) / one.sum((1, 2, 3, 4)) for one in (moving, fixed)]
        displacement = torch.zeros(len(moving), 3, *moving.shape[2:])
        displacement[:, 0] = (at[0] - at[1])[:, None, None, None]
        return displacement


def along_first_axis(by: float) -> Tensor:
    displacement = torch.zeros(1, 3, 8, 8, 8)
    displacement[:, 0] = by
    return displacement


def test_nothing_moves_nothing(make_batch: MakeBatch) -> None:
    batch = make_batch((2, 2, 2))
    still = warp_batch(batch, along_first_axis(0.0))
    for one, other in zip(vars(still).values(), vars(batch).values(), strict=True):
        assert one is other is None or torch.allclose(one.float(), other.float(), atol=1e-5)


def test_the_label_goes_with_the_image(make_batch: MakeBatch) -> None:
    moved = warp_batch(make_batch((2, 2, 2)), along_first_axis(-1.0))
    wanted = make_batch((3, 2, 2))
    assert torch.allclose(moved.image, wanted.image, atol=1e-5)
    inside = moved.weight[:, None].expand_as(moved.target) > 0.5
    assert torch.allclose(moved.target[inside], wanted.target[inside], atol=1e-5)
    # Nothing is known of what came in from outside of the patch.
    assert moved.weight[0, 0].max() < 1e-5
    assert torch.allclose(moved.weight[0, 1:], torch.ones(7, 8, 8), atol=1e-5)
    assert not moved.painted[0, 0].any()


def test_unknown_voxels_do_not_leak_into_labels(make_batch: MakeBatch) -> None:
    # One slice is known, and half of the way to the next one its label has half of the weight.
    batch = make_batch((2, 2, 2))
    weight = torch.zeros_like(batch.weight)
    weight[:, 3] = 1
    moved = warp_batch(replace(batch, weight=weight, painted=weight > 0), along_first_axis(0.5))
    assert torch.allclose(moved.weight[0, :, 4, 4], torch.tensor([0, 0, 0.5, 0.5, 0, 0, 0, 0.0]))
    assert torch.allclose(moved.target[0, 1, 2:4, 3, 3], torch.ones(2), atol=1e-5)
    assert torch.allclose(moved.target[0, 1, 2:4, 6, 6], torch.zeros(2), atol=1e-5)
    assert moved.painted[0, 2:4].all()
    assert not moved.painted[0, 4:].any()


def test_what_was_looked_for_goes_with_the_label(make_batch: MakeBatch) -> None:
    batch = make_batch((2, 2, 2))
    known = batch.known.clone()
    known[:, 1, 4:] = False
    moved = warp_batch(replace(batch, known=known), along_first_axis(-1.0))
    assert moved.known[0, 1, 1:5].all()
    assert not moved.known[0, 1, 5:].any()
    assert moved.known[:, 0].all()


def test_a_whole_pair_becomes_the_fixed_patch(pair: Pair) -> None:
    warped = warp_pair(Shift(), pair)
    assert torch.allclose(warped.image, pair.fixed, atol=1e-5)
    assert torch.allclose(warped.target[:, 1], pair.fixed[:, 0], atol=1e-5)


def test_half_of_the_way_is_half_of_the_displacement(pair: Pair) -> None:
    half = replace(pair, flow_share=torch.tensor([0.5]), style_share=torch.zeros(1))
    warped = warp_pair(Shift(), half)
    # The block from 2 to 4 goes on by half a voxel: its ends are halved.
    ends = torch.tensor([0, 0, 0.5, 1, 1, 0.5, 0, 0])
    assert torch.allclose(warped.image[0, 0, :, 3, 3], ends, atol=1e-5)
    assert torch.allclose(warped.target[0, 1, :, 3, 3], ends, atol=1e-5)


def test_style_changes_the_image_and_not_the_label(pair: Pair) -> None:
    bright = replace(
        pair, fixed=3 * pair.fixed, flow_share=torch.zeros(1), style_share=torch.tensor([0.5])
    )
    warped = warp_pair(Shift(), bright)
    # Half of the way from 1 to 3, in the moving patch's own shape.
    assert torch.allclose(warped.image, 2 * pair.moving.image, atol=1e-5)
    assert torch.allclose(warped.target, pair.moving.target, atol=1e-5)
