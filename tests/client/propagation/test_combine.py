"""Laws of carrying a slice by several candidates at once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from torch import Tensor

from client.propagation.combine import (
    LEARNED_TEMPERATURES,
    SLICES_AT_ONCE,
    carry_by_all,
    carry_by_correspondence,
    describe,
    still_there,
)
from client.propagation.registration import carry_by_registration
from client.propagation.soft_affinity import Carried, carry, end_classes
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.plan import Candidate, Correspondence, Propagation

MovingSquare = Callable[..., tuple[Tensor, Tensor]]
SMALL = Correspondence(channels=4, layers=1, descriptor_length=6)
ALONE: tuple[tuple[Candidate, ...], ...] = (("patches",), ("correspondence",), ("registration",))
ALL: tuple[Candidate, ...] = ("patches", "correspondence", "registration")
EACH = pytest.mark.parametrize("candidates", [*ALONE, ALL], ids="+".join)


@pytest.fixture
def network() -> CorrespondenceNetwork:
    """Untrained: its descriptors, made long, tell textures apart all the same."""
    untrained = build_correspondence(1, SMALL, 0)
    with torch.no_grad():
        untrained.log_length.fill_(5.0)
    return untrained


def settings_for(*candidates: Candidate) -> Propagation:
    return Propagation(candidates=candidates, search_radius_voxels=2)


def painted_on(truth: Tensor, start: int) -> Tensor:
    return torch.stack([~truth[start], truth[start]]).float()


def overlap(one: Tensor, other: Tensor) -> float:
    return float(2 * (one & other).sum() / (one.sum() + other.sum()))


@EACH
def test_a_shifted_square_is_followed_by_every_candidate(
    moving_square: MovingSquare, network: CorrespondenceNetwork, candidates: tuple[Candidate, ...]
) -> None:
    stack, truth = moving_square([8, 9, 10, 11, 12], whole=True)
    settings_ = settings_for(*candidates)
    carried = carry_by_all(stack, painted_on(truth, 2), 2, settings_, network)
    for depth in range(5):
        assert overlap(carried.soft[1, depth] > 0.5, truth[depth]) > 0.98
    # Standing still would overlap by 8 of 10 columns at either end.
    assert overlap(truth[2], truth[0]) == pytest.approx(0.8)


@EACH
@pytest.mark.parametrize("start", [0, 2, 3])
def test_the_painted_slice_is_exact_and_every_pixel_holds_a_distribution(
    moving_square: MovingSquare,
    network: CorrespondenceNetwork,
    candidates: tuple[Candidate, ...],
    start: int,
) -> None:
    stack, truth = moving_square([8, 10, 12, 14])
    painted = painted_on(truth, start)
    carried = carry_by_all(stack, painted, start, settings_for(*candidates), network)
    torch.testing.assert_close(carried.soft[:, start], painted)
    torch.testing.assert_close(carried.soft.sum(0), torch.ones(4, 32, 32))
    assert carried.soft.min() >= -1e-6
    assert carried.agreement[start] == pytest.approx(1)
    others = carried.agreement[torch.arange(4) != start]
    assert (others > 0).all()
    assert (others < 1).all()


@EACH
def test_a_slice_painted_empty_leaves_all_background(
    moving_square: MovingSquare, network: CorrespondenceNetwork, candidates: tuple[Candidate, ...]
) -> None:
    stack, _ = moving_square([8, 9, 10])
    painted = torch.zeros(3, 32, 32)
    painted[0] = 1
    carried = carry_by_all(stack, painted, 1, settings_for(*candidates), network)
    assert torch.equal(carried.soft, painted[:, None].repeat(1, 3, 1, 1))
    assert carried.agreement[[0, 2]].tolist() == [0, 0]


@EACH
@pytest.mark.parametrize("depth", [1, 2])
def test_stacks_of_few_slices(
    moving_square: MovingSquare,
    network: CorrespondenceNetwork,
    candidates: tuple[Candidate, ...],
    depth: int,
) -> None:
    stack, truth = moving_square([8, 9][:depth])
    carried = carry_by_all(stack, painted_on(truth, 0), 0, settings_for(*candidates), network)
    torch.testing.assert_close(carried.soft[:, 0], painted_on(truth, 0))
    assert carried.soft.shape == (2, depth, 32, 32)


def test_patches_alone_are_the_soft_affinity(moving_square: MovingSquare) -> None:
    stack, truth = moving_square([8, 9, 10, None])
    painted, settings_ = painted_on(truth, 1), settings_for("patches")
    found, wanted = (
        carry_by_all(stack, painted, 1, settings_, None),
        carry(stack, painted, 1, settings_),
    )
    assert torch.equal(found.soft, wanted.soft)
    assert torch.equal(found.agreement, wanted.agreement)


def test_all_together_are_the_mean_of_the_votes_where_the_patches_have_not_ended(
    moving_square: MovingSquare, network: CorrespondenceNetwork
) -> None:
    stack, truth = moving_square([8, 9, 10, 11])
    painted, settings_ = painted_on(truth, 1), settings_for(*ALL)
    learned = carry_by_correspondence(stack, painted, 1, settings_, network)
    assert len(learned) == len(LEARNED_TEMPERATURES) == 3
    patches = carry(stack, painted, 1, settings_)
    votes = [patches.soft, *learned, carry_by_registration(stack, painted, 1)]
    mean = torch.stack(votes).mean(0)
    carried = carry_by_all(stack, painted, 1, settings_, network)
    torch.testing.assert_close(carried.soft, mean)
    # The agreement by hand: how alike each vote and the mean are, times the patches' own.
    for depth in range(4):
        shares = [
            2 * float(torch.minimum(vote[1, depth], mean[1, depth]).sum())
            / float(vote[1, depth].sum() + mean[1, depth].sum())
            for vote in votes
        ]  # fmt: skip
        wanted = float(patches.agreement[depth]) * float(np.mean(shares))
        assert float(carried.agreement[depth]) == pytest.approx(wanted, rel=1e-4)


def test_the_patches_end_what_the_others_would_carry_on(moving_square: MovingSquare) -> None:
    stack, truth = moving_square([None, None, None, 9, 9, 9, None, None, None], size=4)
    painted = painted_on(truth, 4)
    alone = carry_by_registration(stack, painted, 4)
    assert (alone[1].sum((1, 2)) > 1).all(), "registration by itself never ends a structure"
    settings_ = settings_for("registration")
    by_patches = carry(stack, painted, 4, settings_)
    there = still_there(by_patches.soft, 4)[0].tolist()
    assert there[3:6] == [True, True, True]
    assert not there[0]
    assert not there[8]
    carried = carry_by_all(stack, painted, 4, settings_, None)
    assert (carried.soft[1].sum((1, 2)) > 0).tolist() == there
    assert (carried.agreement > 0).tolist() == there


def test_one_class_ends_while_another_goes_on(moving_square: MovingSquare) -> None:
    going_on, truth = moving_square([22] * 9, size=4)
    ending, truth_of_ending = moving_square([None, None, None, 5, 5, 5, None, None, None], size=4)
    stack = torch.cat([ending[..., :16], going_on[..., 16:]], dim=3)
    painted = torch.zeros(3, 32, 32)
    painted[1], painted[2] = truth[4], truth_of_ending[4]
    painted[0] = 1 - painted[1:].sum(0)
    carried = carry_by_all(stack, painted, 4, settings_for("registration"), None)
    areas = carried.soft[1:].sum((2, 3))
    assert (areas[0] > 10).all()
    assert (areas[1, 3:6] > 10).all()
    # Registration by itself carries the second class to both ends.
    assert (carry_by_registration(stack, painted, 4)[2].sum((1, 2)) > 1).all()
    assert areas[1, [0, 8]].tolist() == [0, 0]


def test_where_nothing_is_left_nothing_is_looked_at(
    moving_square: MovingSquare, network: CorrespondenceNetwork
) -> None:
    stack, truth = moving_square([None, None, None, 9, 9, 9, None, None, None], size=4)
    painted, settings_ = painted_on(truth, 4), settings_for(*ALL)
    carried = carry_by_all(stack, painted, 4, settings_, network)
    changed = stack.clone()
    changed[:, [0, 8]] = 7  # beyond where the patches have ended
    again = carry_by_all(changed, painted, 4, settings_, network)
    assert torch.equal(carried.soft, again.soft)


def test_a_class_that_has_stopped_is_not_there_again() -> None:
    # One row of two pixels; labels along seven slices, painted on the fourth.
    labels = torch.tensor([[1, 0], [0, 0], [1, 2], [1, 2], [1, 0], [1, 2], [0, 2]])
    soft = torch.nn.functional.one_hot(labels, 3).permute(2, 0, 1)[:, :, None].float()
    assert still_there(soft, 3).tolist() == [
        # Upwards 1 1 1 0; downwards 1 1 0 and then 1, which comes too late.
        [False, False, True, True, True, True, False],
        # Upwards 1 0 and then 1 1, too late; downwards 1 1 0.
        [False, False, True, True, False, False, False],
    ]


def test_a_class_that_is_not_painted_is_nowhere() -> None:
    soft = torch.zeros(3, 3, 1, 1)
    soft[2] = 1
    soft[:, 1, 0, 0] = torch.tensor([0.0, 1.0, 0.0])
    assert still_there(soft, 1).tolist() == [[False, True, False], [False, False, False]]


def test_a_class_counts_as_there_where_it_is_likelier_than_the_background() -> None:
    share = torch.tensor([0.2, 0.4, 0.6, 0.4, 0.6]).reshape(1, 5, 1, 1)
    assert still_there(torch.cat([1 - share, share]), 2).tolist() == [
        [False, False, True, False, False]
    ]


def test_a_part_that_blurs_into_another_part_has_not_ended() -> None:
    # Background, a thin part, and the part around it: the thin one is the likeliest nowhere.
    soft = torch.tensor([[0.1, 0.1, 0.4], [0.7, 0.3, 0.2], [0.2, 0.6, 0.4]])
    soft = soft.reshape(3, 3, 1, 1)
    assert soft.argmax(0).flatten().tolist() == [1, 2, 0]
    assert still_there(soft, 0).tolist() == [[True, True, False], [True, True, False]]


volumes = npst.arrays(np.float32, (3, 6, 2, 2), elements=st.floats(0, 1, width=16))


@given(raw=volumes, start=st.integers(0, 5))
@settings(deadline=None)
def test_no_class_ever_comes_back(raw: np.ndarray, start: int) -> None:
    soft = torch.from_numpy(raw) + 0.01
    soft = soft / soft.sum(0)
    there = still_there(soft, start)
    ended = end_classes(soft, there)
    torch.testing.assert_close(ended.sum(0), torch.ones(6, 2, 2))
    for way in (ended[1:, start:], ended[1:, : start + 1].flip(1)):
        shown = way.sum((2, 3)) > 0
        assert (shown.int().diff(dim=1) <= 0).all()


def test_the_mass_of_what_has_ended_goes_to_the_background() -> None:
    soft = torch.tensor([0.2, 0.5, 0.3]).reshape(3, 1, 1, 1).repeat(1, 2, 1, 1)
    there = torch.tensor([[True, True], [True, False]])
    ended = end_classes(soft, there)[:, :, 0, 0]
    torch.testing.assert_close(ended, torch.tensor([[0.2, 0.5], [0.5, 0.5], [0.3, 0.0]]))


def test_slices_are_described_one_by_one_however_many(network: CorrespondenceNetwork) -> None:
    stack = torch.from_numpy(
        np.random.default_rng(0).normal(size=(1, SLICES_AT_ONCE + 2, 9, 8)).astype(np.float32)
    )
    together = describe(network, stack)
    assert together.shape == (6, SLICES_AT_ONCE + 2, 9, 8)
    for place in (0, SLICES_AT_ONCE - 1, SLICES_AT_ONCE, SLICES_AT_ONCE + 1):
        one = slice(place, place + 1)
        torch.testing.assert_close(
            together[:, one], describe(network, stack[:, one]), rtol=1e-4, atol=1e-3
        )


def test_inputs_are_left_as_they_were(
    moving_square: MovingSquare, network: CorrespondenceNetwork
) -> None:
    stack, truth = moving_square([8, 9, None])
    painted = painted_on(truth, 1)
    kept = stack.clone(), painted.clone()
    result: Carried = carry_by_all(stack, painted, 1, settings_for(*ALL), network)
    assert torch.equal(stack, kept[0])
    assert torch.equal(painted, kept[1])
    assert result.soft.shape == (2, 3, 32, 32)
