"""Sli2Vol against its published shape, and its verification by hand."""

import numpy as np
import pytest
import torch

from simulations.baselines import sli2vol
from simulations.baselines.sli2vol import (
    draw_pairs,
    propagate_sli2vol,
    rebuilding_loss,
    train_sli2vol,
    verify,
)
from simulations.baselines.sli2vol_network import (
    SIGHT_VOXELS,
    WINDOW_RADIUS,
    Encoder,
    apply_affinity,
    edge_profile,
    slice_affinity,
)

STACK = torch.randn(1, 4, 18, 20, generator=torch.Generator().manual_seed(1))


def test_the_encoder_has_the_published_number_of_parameters() -> None:
    assert sum(weights.numel() for weights in Encoder().parameters()) == 811_168


def test_edge_profiles_see_differences_alone() -> None:
    grey = 255 * torch.rand(1, 9, 9, generator=torch.Generator().manual_seed(0))
    profile = edge_profile(grey)
    assert profile.shape == (1, 48, 9, 9)
    torch.testing.assert_close(profile.sum(1), torch.ones(1, 9, 9))
    torch.testing.assert_close(edge_profile(grey + 10), profile, atol=1e-4, rtol=1e-4)


def test_the_edge_profile_of_one_bright_pixel_by_hand() -> None:
    grey = torch.zeros(1, 7, 7)
    grey[0, 3, 3] = 2
    profile = edge_profile(grey)[0]
    # In the centre all 48 differences are 2; one pixel to the left, one of them is -2, others 0.
    torch.testing.assert_close(profile[:, 3, 3], torch.full((48,), 1 / 48))
    right = 3 * 7 + 4 - 1  # the centre itself is no neighbour
    least = np.exp(-2) / (47 + np.exp(-2))
    assert profile[right, 3, 2].item() == pytest.approx(least)


def test_affinity_with_a_moved_slice_points_where_it_came_from() -> None:
    source = 9 * torch.nn.functional.normalize(torch.randn(1, 64, 15, 15), dim=1)
    target = source.roll((2, -3), (2, 3))
    affinity = slice_affinity(target, source)
    torch.testing.assert_close(affinity.sum(1), torch.ones(1, 15, 15))
    values = torch.arange(225.0).reshape(1, 1, 15, 15)
    rebuilt = apply_affinity(affinity, values)
    inside = (slice(None), slice(None), slice(4, 11), slice(4, 11))
    moved = values.roll((2, -3), (2, 3))
    torch.testing.assert_close(rebuilt[inside], moved[inside], atol=1e-3, rtol=1e-3)


def test_the_window_of_a_step_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    side = 2 * (2 * WINDOW_RADIUS + SIGHT_VOXELS) + 26
    stack = torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(2))
    mask = torch.zeros(side, side)
    mask[side // 2 - 8 : side // 2 + 8, side // 2 - 9 : side // 2 + 9] = 1
    painted = torch.stack([1 - mask, mask])
    monkeypatch.setattr(sli2vol, "verify", lambda carried, known, pair: carried)
    network = train_sli2vol([], 1, seed=0)
    windowed = propagate_sli2vol(network, stack, painted, 0)
    monkeypatch.setattr(sli2vol, "window_around", lambda *_: (slice(None), slice(None)))
    assert torch.equal(propagate_sli2vol(network, stack, painted, 0), windowed)
    assert windowed[1, 1].any()


def test_steps_and_seed_repeat_exactly() -> None:
    once = train_sli2vol([STACK], 0, seed=3, steps=2)
    again = train_sli2vol([STACK], 0, seed=3, steps=2)
    other = train_sli2vol([STACK], 0, seed=4, steps=2)
    weights = [list(network.state_dict().values()) for network in (once, again, other)]
    assert all(torch.equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not torch.equal(weights[0][0], weights[2][0])
    assert not once.training


def test_flat_slices_are_rebuilt_but_for_their_edge() -> None:
    flat = torch.full((2, 30, 30), 50.0)
    loss = rebuilding_loss(Encoder(), flat, flat)
    # Only near the edge does the window hold zeros, which pull the rebuilt intensity down.
    assert 0 < loss < 50 * 0.5


def test_training_ends_after_its_seconds_and_may_have_nothing_to_learn_from() -> None:
    trained = train_sli2vol([STACK], 1e-3, seed=0)
    first = train_sli2vol([STACK[:, :1]], 1e-3, seed=0)
    assert not torch.equal(trained.layers[0].weight, first.layers[0].weight)


def test_pairs_are_neighbours_in_the_recipes_range() -> None:
    # Every slice has its own grey, so that the pairs can be told.
    ramp = torch.arange(8.0)[None, :, None, None].expand(1, 8, 70, 12).clone()
    source, target = draw_pairs([ramp], np.random.default_rng(0))
    assert source.shape == target.shape == (5, 64, 12)
    assert min(source.min(), target.min()) >= 0
    assert max(source.max(), target.max()) <= 255
    # All five pairs go the same way along the stack.
    assert len({bool(t.mean() > s.mean()) for s, t in zip(source, target, strict=True)}) == 1


def square(first: int, last: int) -> np.ndarray:
    labels = np.zeros((24, 24), np.int64)
    labels[first:last, first:last] = 1
    return labels


def test_verification_keeps_what_looks_like_the_structure() -> None:
    known, carried = square(8, 14), square(8, 16)
    bright = 20.0 + 180.0 * square(8, 14)
    np.testing.assert_array_equal(verify(carried, known, np.stack([bright, bright])), known)


def test_verification_fills_holes_and_gaps() -> None:
    known = carried = square(6, 14)
    first = 20.0 + 180.0 * known
    second = first.copy()
    second[10, 10] = 20  # a dark spot inside
    np.testing.assert_array_equal(verify(carried, known, np.stack([first, second])), known)


def test_a_class_inside_another_stays() -> None:
    known = square(4, 16)
    known[8:12, 8:12] = 2
    grey = np.choose(known, [0.0, 100.0, 250.0])
    np.testing.assert_array_equal(verify(known, known, np.stack([grey, grey])), known)


def test_a_structure_that_is_gone_ends() -> None:
    known = carried = square(6, 14)
    gone = np.full((24, 24), 20.0)
    kept = verify(carried, known, np.stack([20.0 + 180.0 * known, gone]))
    assert not kept.any()


def test_without_surroundings_there_is_nothing_to_verify_against() -> None:
    everywhere = np.ones((6, 6), np.int64)
    pair = np.stack([np.full((6, 6), 9.0), np.zeros((6, 6))])
    np.testing.assert_array_equal(verify(everywhere, everywhere, pair), everywhere)
