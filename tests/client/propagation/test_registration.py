"""Laws of carrying a slice by registration."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from client.propagation.registration import carry_by_registration, displacement, warp

MovingSquare = Callable[..., tuple[Tensor, Tensor]]


def painted_on(truth: Tensor, start: int) -> Tensor:
    return torch.stack([~truth[start], truth[start]]).float()


def overlap(one: Tensor, other: Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


def test_a_shifted_square_is_followed(moving_square: MovingSquare) -> None:
    stack, truth = moving_square([8, 9, 10, 11, 12])
    soft = carry_by_registration(stack, painted_on(truth, 2), 2)
    for depth in range(5):
        assert overlap(soft[1, depth] > 0.5, truth[depth]) > 0.95
    # Standing still would overlap by 8 of 10 columns at either end.
    assert overlap(truth[2], truth[0]) == pytest.approx(0.8)


def test_the_field_tells_where_each_pixel_comes_from() -> None:
    # A soft blob three columns further right in `fixed` comes from three columns to the left.
    image = np.zeros((32, 32), dtype=np.float32)
    image[16, 12] = 400
    moving = ndimage.gaussian_filter(image, 4)
    fixed = np.roll(moving, 3, axis=1)
    field = displacement(fixed, moving)
    x, y = field.TransformPoint((15.0, 16.0))
    assert (x, y) == pytest.approx((12, 16), abs=0.3)
    np.testing.assert_allclose(warp(moving[None], field)[0], fixed.clip(0, 1), atol=0.1)


def test_nothing_moves_between_equal_slices(moving_square: MovingSquare) -> None:
    stack, truth = moving_square([8, 8, 8])
    soft = carry_by_registration(stack, painted_on(truth, 1), 1)
    torch.testing.assert_close(soft, painted_on(truth, 1)[:, None].repeat(1, 3, 1, 1))


@pytest.mark.parametrize("start", [0, 2, 4])
def test_the_painted_slice_is_exact_and_every_pixel_holds_a_distribution(
    moving_square: MovingSquare, start: int
) -> None:
    stack, truth = moving_square([8, 10, 12, 14, 16])
    kept = stack.clone()
    halves = torch.zeros(3, 32, 32)
    halves[1], halves[2] = truth[start], truth[start]
    halves[1, :16], halves[2, 16:] = 0, 0
    halves[0] = 1 - halves[1:].sum(0)
    soft = carry_by_registration(stack, halves, start)
    assert torch.equal(soft[:, start], halves)
    torch.testing.assert_close(soft.sum(0), torch.ones(5, 32, 32))
    assert soft.min() >= -1e-6
    assert torch.equal(stack, kept)


def test_a_slice_painted_empty_leaves_all_background(moving_square: MovingSquare) -> None:
    stack, _ = moving_square([8, 9, 10])
    painted = torch.zeros(3, 32, 32)
    painted[0] = 1
    assert torch.equal(carry_by_registration(stack, painted, 1)[0], torch.ones(3, 32, 32))


def test_channels_count_alike(moving_square: MovingSquare) -> None:
    stack, truth = moving_square([8, 10, 12])
    painted = painted_on(truth, 1)
    other = torch.rand(stack.shape, generator=torch.Generator().manual_seed(0))
    # One channel plus noise and the same minus the noise: their mean is the one channel.
    both = torch.cat([stack + other, stack - other])
    one = carry_by_registration(stack, painted, 1)
    torch.testing.assert_close(carry_by_registration(both, painted, 1), one, atol=0.02, rtol=0)


def test_the_same_comes_out_twice(moving_square: MovingSquare) -> None:
    stack, truth = moving_square([8, 10, 12])
    first, again = (carry_by_registration(stack, painted_on(truth, 0), 0) for _ in range(2))
    assert torch.equal(first, again)
