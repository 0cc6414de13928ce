"""Laws of carrying a slice through a stack."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from client.propagation import region
from client.propagation.soft_affinity import (
    carry,
    end_classes,
    for_descriptors,
    foreground_agreement,
    match,
    rebuild,
)
from common.plan import Propagation

SETTINGS = Propagation(search_radius_voxels=2, patch_radius_voxels=1)
stacks = npst.arrays(
    np.float32, (1, 5, 8, 9), elements=st.floats(-3, 3, width=16, allow_subnormal=False)
)
masks = npst.arrays(np.int64, (8, 9), elements=st.integers(0, 2))


def one_hot(mask: Tensor, num_classes: int) -> Tensor:
    return torch.stack([(mask == index).float() for index in range(num_classes)])


def texture(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def overlap(one: Tensor, other: Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def square_stack(firsts: list[int | None], size: int = 4) -> tuple[Tensor, Tensor]:
    """A bright square on a dark ground, its left edge at firsts[d] on slice d; image and truth."""
    truth = torch.zeros(len(firsts), 16, 20, dtype=torch.bool)
    for depth, first in enumerate(firsts):
        if first is not None:
            truth[depth, 6 : 6 + size, first : first + size] = True
    noise = 0.05 * texture(*truth.shape)
    return (4 * truth.float() - 2 + noise)[None], truth


@given(source=stacks, settings_=st.sampled_from([SETTINGS, Propagation()]))
@settings(max_examples=25, deadline=None)
def test_the_affinity_of_every_pixel_sums_to_one(
    source: np.ndarray, settings_: Propagation
) -> None:
    stack = torch.from_numpy(source)
    # Two pairs of slices at once.
    affinity = match(stack[:, :2].movedim(1, 0), stack[:, 2:4].movedim(1, 0), settings_)
    window = (2 * settings_.search_radius_voxels + 1) ** 2
    assert affinity.shape == (2, window, 8, 9)
    assert (affinity >= 0).all()
    torch.testing.assert_close(affinity.sum(1), torch.ones(2, 8, 9))


def test_the_affinity_prefers_the_pixel_that_looks_the_same() -> None:
    source = texture(1, 1, 9, 9)
    # The target's content lies one row down of the source's: pixel (4, 4) shows what (3, 4) showed.
    target = source.roll(1, dims=2)
    affinity = match(source, target, SETTINGS)
    rows, columns = divmod(int(affinity[0, :, 4, 4].argmax()), 5)
    assert (rows - 2, columns - 2) == (-1, 0)


def test_affinities_by_hand_on_three_pixels() -> None:
    # One row of three pixels, a window of 3 x 3, its other rows being the edge repeated: each
    # column of the window counts alike three times but for the penalty on the row, which is the
    # same for all columns and cancels between them.
    bare = Propagation(
        search_radius_voxels=1, patch_radius_voxels=0, temperature=2.0, displacement_penalty=0.5
    )
    source, target = torch.tensor([0.0, 2.0, 4.0]), torch.tensor([0.0, 2.0, 2.0])
    affinity = match(source.reshape(1, 1, 1, 3), target.reshape(1, 1, 1, 3), bare)
    per_column = affinity[0, :, 0].reshape(3, 3, 3).sum(0)
    # The last pixel, 2, sees 2, 4 and 4 (repeated): costs 0, 4 and 4 over the temperature 2, and
    # the penalty 0.5 for either neighbour.
    logits = torch.tensor([0 - 0.5, -2.0, -2.0 - 0.5])
    torch.testing.assert_close(per_column[:, 2], torch.softmax(logits, 0))
    # The first, 0, sees 0 (repeated), 0 and 2.
    logits = torch.tensor([0 - 0.5, 0.0, -2.0 - 0.5])
    torch.testing.assert_close(per_column[:, 0], torch.softmax(logits, 0))


def test_a_batch_is_matched_and_rebuilt_as_each_pair_by_itself() -> None:
    source, target, values = texture(3, 2, 7, 8), texture(3, 2, 7, 8, seed=1), texture(3, 4, 7, 8)
    together = match(source, target, SETTINGS)
    rebuilt = rebuild(together, values, 2)
    for number in range(3):
        one = slice(number, number + 1)
        alone = match(source[one], target[one], SETTINGS)
        torch.testing.assert_close(together[one], alone)
        torch.testing.assert_close(rebuilt[one], rebuild(alone, values[one], 2))


def test_rebuilding_is_a_weighted_mean_of_the_window() -> None:
    soft = torch.zeros(1, 1, 5, 5)
    soft[0, 0, 2, 3] = 1
    affinity = torch.zeros(1, 9, 5, 5)
    affinity[:, 5] = 0.25  # one column to the right
    affinity[:, 4] = 0.75  # the pixel itself
    carried = rebuild(affinity, soft, 1)
    wanted = torch.zeros(1, 1, 5, 5)
    wanted[0, 0, 2, 3], wanted[0, 0, 2, 2] = 0.75, 0.25
    torch.testing.assert_close(carried, wanted)


@given(stack=stacks, mask=masks, start=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_every_slice_holds_a_distribution_and_agreement_never_rises(
    stack: np.ndarray, mask: np.ndarray, start: int
) -> None:
    painted = one_hot(torch.from_numpy(mask), 3)
    carried = carry(torch.from_numpy(stack), painted, start, SETTINGS)
    assert (carried.soft >= -1e-6).all()
    torch.testing.assert_close(carried.soft.sum(0), torch.ones(5, 8, 9))
    torch.testing.assert_close(carried.soft[:, start], painted)
    assert carried.agreement[start] == 1
    for way in (carried.agreement[start:], carried.agreement[: start + 1].flip(0)):
        assert (way.diff() <= 1e-6).all()
        assert (way >= 0).all()


@given(stack=stacks, mask=masks, start=st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_a_class_that_ended_never_returns(stack: np.ndarray, mask: np.ndarray, start: int) -> None:
    painted = one_hot(torch.from_numpy(mask), 3)
    ending = SETTINGS.model_copy(update={"smallest_area_share": 0.6})
    soft = carry(torch.from_numpy(stack), painted, start, ending).soft
    for way in (soft[1:, start:], soft[1:, : start + 1].flip(1)):
        there = way.sum((2, 3)) > 0
        assert (there.int().diff(dim=1) <= 0).all()


def test_a_class_can_end_while_another_goes_on() -> None:
    image, truth = square_stack([6] * 5)
    image[0, 3:, 12:15, 14:17] = 6  # seen on slices 3 and 4 only
    mask = truth[4].long()
    mask[12:15, 14:17] = 2
    soft = carry(image, one_hot(mask, 3), 4, SETTINGS).soft
    assert (soft[2].sum((1, 2)) > 0).tolist() == [False, False, False, True, True]
    assert (soft[1].sum((1, 2)) > 10).all()


def test_the_result_is_the_same_when_the_stack_is_turned_round() -> None:
    stack, mask = texture(2, 6, 9, 10), (texture(9, 10, seed=1) > 0.8).long()
    forward = carry(stack, one_hot(mask, 2), 1, SETTINGS)
    backward = carry(stack.flip(1), one_hot(mask, 2), 4, SETTINGS)
    torch.testing.assert_close(forward.soft, backward.soft.flip(1))
    torch.testing.assert_close(forward.agreement, backward.agreement.flip(0))


def test_identical_slices_carry_the_mask_along_unchanged() -> None:
    image, truth = square_stack([8])
    stack = image.expand(1, 9, 16, 20).contiguous()
    soft = carry(stack, one_hot(truth[0].long(), 2), 4, SETTINGS).soft
    for depth in range(9):
        assert overlap(soft[1, depth] > 0.5, truth[0]) == 1
    areas = soft[1].sum((1, 2))
    torch.testing.assert_close(areas, torch.full((9,), 16.0), rtol=0.15, atol=0)


def test_an_object_that_moves_one_voxel_a_slice_is_followed() -> None:
    image, truth = square_stack([4, 5, 6, 7, 8, 9, 10, 11])
    soft = carry(image, one_hot(truth[0].long(), 2), 0, SETTINGS).soft
    for depth in range(1, 8):
        followed, copied = soft[1, depth] > 0.5, truth[0]
        assert overlap(followed, truth[depth]) > 0.9
        assert overlap(followed, truth[depth]) > overlap(copied, truth[depth])


def test_an_object_that_vanishes_ends_there() -> None:
    image, truth = square_stack([None, None, None, 8, 8, 8, None, None, None])
    soft = carry(image, one_hot(truth[4].long(), 2), 4, SETTINGS).soft
    shown = (soft[1] > 0.5).any(2).any(1).tolist()
    assert shown == [False, False, False, True, True, True, False, False, False]
    # The mass itself ends for good, not only the hard labels.
    assert soft[1, [0, 8]].sum() == 0


def test_looking_only_around_the_object_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    image, truth = square_stack([2, 4, 6, 8, 10, 10, None])
    painted = one_hot(truth[2].long(), 2)
    around = carry(image, painted, 2, SETTINGS)
    monkeypatch.setattr(region, "NEGLIGIBLE", -1.0)  # every pixel matters
    everywhere = carry(image, painted, 2, SETTINGS)
    torch.testing.assert_close(around.soft, everywhere.soft, rtol=0, atol=0.01)
    torch.testing.assert_close(around.agreement, everywhere.agreement, rtol=0, atol=0.01)


def test_a_slice_painted_empty_leaves_all_background() -> None:
    carried = carry(texture(1, 4, 8, 8), one_hot(torch.zeros(8, 8), 3), 2, SETTINGS)
    assert (carried.soft[0] == 1).all()
    assert (carried.soft[1:] == 0).all()
    assert carried.agreement.tolist() == [0, 0, 1, 0]


def test_a_stack_of_one_slice_is_the_painted_slice() -> None:
    painted = one_hot((texture(8, 8) > 0).long(), 2)
    carried = carry(texture(1, 1, 8, 8), painted, 0, SETTINGS)
    torch.testing.assert_close(carried.soft[:, 0], painted)
    assert carried.agreement.tolist() == [1]


def test_inputs_are_left_as_they_were() -> None:
    stack, painted = texture(1, 4, 8, 8), one_hot((texture(8, 8) > 0).long(), 2)
    kept = stack.clone(), painted.clone()
    carry(stack, painted, 1, SETTINGS)
    assert torch.equal(stack, kept[0])
    assert torch.equal(painted, kept[1])


def test_the_mass_of_ended_classes_goes_to_the_background() -> None:
    soft = torch.tensor([0.2, 0.5, 0.3]).reshape(3, 1, 1)
    ended = end_classes(soft, torch.tensor([True, False]))
    torch.testing.assert_close(ended.flatten(), torch.tensor([0.5, 0.5, 0.0]))


def test_agreement_is_the_soft_dice_of_the_foreground() -> None:
    one = torch.tensor([[0.0, 1.0], [1.0, 0.0]]).reshape(2, 1, 2)
    other = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).reshape(2, 1, 2)
    # Overlap min(1, .5) + min(0, .5) = .5; sums 1 and 1.
    assert foreground_agreement(one, other) == 0.5
    assert foreground_agreement(one, one) == 1


def test_descriptors_are_matched_by_the_sum_over_their_numbers_and_without_patches() -> None:
    source, target = texture(1, 6, 7, 8), texture(1, 6, 7, 8, seed=1)
    changed = for_descriptors(SETTINGS, 6, temperature=2.0)
    assert changed.search_radius_voxels == SETTINGS.search_radius_voxels
    affinity = match(source, target, changed)
    # By hand for one pixel away from the edges, in plain loops.
    logits = [
        -float(((target[0, :, 3, 4] - source[0, :, 3 + i, 4 + j]) ** 2).sum()) / 2.0
        - SETTINGS.displacement_penalty * (i**2 + j**2)
        for i in range(-2, 3)
        for j in range(-2, 3)
    ]
    torch.testing.assert_close(affinity[0, :, 3, 4], torch.softmax(torch.tensor(logits), 0))


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_patches_are_compared_by_the_mean_over_their_square(radius: int) -> None:
    source, target = texture(1, 1, 9, 11, seed=1), texture(1, 1, 9, 11, seed=2)
    alone = SETTINGS.model_copy(update={"patch_radius_voxels": 0, "displacement_penalty": 0.0})
    pooled = alone.model_copy(update={"patch_radius_voxels": radius})
    # Without penalty the logarithm of a match is the cost over the temperature, but for a constant.
    cost = -torch.log(match(source, target, alone)) * alone.temperature
    constant = torch.logsumexp(-_true_cost(source, target) / alone.temperature, dim=1)
    torch.testing.assert_close(cost, _true_cost(source, target) + alone.temperature * constant)
    padded = torch.nn.functional.pad(_true_cost(source, target), (radius,) * 4, mode="replicate")
    mean = torch.nn.functional.avg_pool2d(padded, 2 * radius + 1, stride=1)
    wanted = torch.softmax(-mean / pooled.temperature, dim=1)
    torch.testing.assert_close(match(source, target, pooled), wanted)


def _true_cost(source: Tensor, target: Tensor) -> Tensor:
    """The squared difference to each pixel of the window, one at a time."""
    reach = SETTINGS.search_radius_voxels
    padded = torch.nn.functional.pad(source, (reach,) * 4, mode="replicate")
    height, width = target.shape[2:]
    moved = [
        padded[:, 0, i : i + height, j : j + width]
        for i in range(2 * reach + 1)
        for j in range(2 * reach + 1)
    ]
    return torch.stack([(target[:, 0] - one) ** 2 for one in moved], dim=1)


def test_rows_of_the_window_and_single_places_give_the_same_weights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    source, target = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8)
    settings = Propagation(search_radius_voxels=2)
    by_rows = match(source, target, settings)
    monkeypatch.setattr("client.propagation.soft_affinity.MOST_CACHED_NUMBERS", 0)
    torch.testing.assert_close(match(source, target, settings), by_rows)
