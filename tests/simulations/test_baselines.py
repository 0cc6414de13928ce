"""Laws that every baseline keeps, on stacks of a few slices."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from client.propagation.registration import carry_by_registration as deformable
from simulations.baselines.grey import grey_stack
from simulations.baselines.optical_flow import optical_flow
from simulations.baselines.sli2vol import propagate_sli2vol, train_sli2vol
from simulations.baselines.static_copy import static_copy
from simulations.baselines.walk import walk_outwards, window_around

Spread = Callable[[Tensor, Tensor, int], Tensor]
START = 2


def moving_square(depth: int = 6, side: int = 40) -> tuple[Tensor, Tensor]:
    """A bright square on a soft texture that moves a pixel or two per slice: stack and its mask."""
    noise = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    texture = 3 * F.avg_pool2d(noise, 5, stride=1, padding=2)[0, 0]
    masks = torch.zeros(depth, side, side)
    for place in range(depth):
        masks[place, 10 + 2 * place : 20 + 2 * place, 12 + place : 22 + place] = 1
    stack = (texture + 2 * masks)[None]
    return (stack - stack.mean()) / stack.std(), masks


def painted_on(masks: Tensor, start: int = START) -> Tensor:
    return torch.stack([1 - masks[start], masks[start]])


def overlap(soft: Tensor, masks: Tensor) -> float:
    """Dice of the hardened result, the start slice left out."""
    others = [place for place in range(len(masks)) if place != START]
    found, truth = soft.argmax(0)[others] == 1, masks[others] > 0
    return 2 * int((found & truth).sum()) / int(found.sum() + truth.sum())


def untrained_sli2vol(stack: Tensor, painted: Tensor, start: int) -> Tensor:
    return propagate_sli2vol(train_sli2vol([], 1, seed=0), stack, painted, start)


ALL = pytest.mark.parametrize(
    "spread",
    [static_copy, optical_flow, deformable, untrained_sli2vol],
    ids=["static copy", "optical flow", "deformable", "sli2vol"],
)


@ALL
def test_the_painted_slice_is_exact_and_probabilities_sum_to_one(spread: Spread) -> None:
    stack, masks = moving_square()
    painted = painted_on(masks)
    before = stack.clone()
    soft = spread(stack, painted, START)
    assert soft.shape == (2, *masks.shape)
    assert torch.equal(soft[:, START], painted)
    torch.testing.assert_close(soft.sum(0), torch.ones_like(masks))
    assert soft.min() >= -1e-6
    assert torch.equal(stack, before)


@ALL
def test_nothing_painted_stays_nothing(spread: Spread) -> None:
    stack, masks = moving_square(depth=3)
    nothing = torch.stack([torch.ones_like(masks[0]), torch.zeros_like(masks[0])])
    assert torch.equal(spread(stack, nothing, 1)[0], torch.ones_like(masks))
    assert torch.equal(spread(stack, nothing[:1], 1)[0], torch.ones_like(masks))


@ALL
def test_a_stack_of_one_slice_and_two_channels(spread: Spread) -> None:
    stack, masks = moving_square(depth=3)
    painted = painted_on(masks)
    assert torch.equal(spread(stack[:, 2:].repeat(2, 1, 1, 1), painted, 0)[:, 0], painted)


@ALL
def test_slices_without_contrast_and_of_few_pixels(spread: Spread) -> None:
    painted = torch.zeros(2, 3, 4)
    painted[1, 1, 1:3] = 1
    painted[0] = 1 - painted[1]
    soft = spread(torch.zeros(1, 3, 3, 4), painted, 1)
    assert torch.isfinite(soft).all()
    assert torch.equal(soft[:, 1], painted)


@pytest.mark.parametrize("spread", [optical_flow, deformable], ids=["optical flow", "deformable"])
def test_a_moving_square_is_followed_better_than_by_a_copy(spread: Spread) -> None:
    stack, masks = moving_square()
    painted = painted_on(masks)
    still = overlap(static_copy(stack, painted, START), masks)
    assert overlap(spread(stack, painted, START), masks) > still + 0.1


def test_optical_flow_hardens_every_step_and_deformable_does_not() -> None:
    stack, masks = moving_square()
    painted = painted_on(masks)
    assert set(optical_flow(stack, painted, START).unique().tolist()) == {0, 1}
    assert len(deformable(stack, painted, START).unique()) > 2


def test_a_copy_is_the_same_everywhere() -> None:
    stack, masks = moving_square()
    soft = static_copy(stack, painted_on(masks), START)
    assert all(torch.equal(soft[1, place], masks[START]) for place in range(len(masks)))


def test_the_walk_goes_both_ways_and_ends_with_the_structure() -> None:
    steps = []

    def halve(here: int, there: int, soft: Tensor) -> Tensor:
        steps.append((here, there))
        gone = soft[1:] * (0 if there == 3 else 0.5)
        return torch.cat([1 - gone.sum(0, keepdim=True), gone])

    painted = torch.stack([torch.zeros(2, 2), torch.ones(2, 2)])
    soft = walk_outwards(painted, 6, 2, halve)
    assert steps == [(2, 3), (2, 1), (1, 0)]
    assert soft[1, :, 0, 0].tolist() == [0.25, 0.5, 1, 0, 0, 0]
    assert torch.equal(soft.sum(0), torch.ones(6, 2, 2))


def test_the_window_holds_the_structure_and_its_margin() -> None:
    foreground = torch.zeros(2, 20, 30)
    foreground[0, 5, 7] = 1
    foreground[1, 8, 2] = 0.5
    assert window_around(foreground, 3) == (slice(2, 12), slice(0, 11))


def test_grey_is_stretched_to_the_whole_range() -> None:
    stack = torch.tensor([[-1.0, 3.0], [1.0, 1.0]]).reshape(2, 1, 1, 2)
    # Means of the channels are 0 and 2.
    assert grey_stack(stack, 255).tolist() == [[[0, 255]]]
    assert grey_stack(torch.full((1, 2, 2, 2), 7.0), 255).tolist() == [[[0, 0], [0, 0]]] * 2
