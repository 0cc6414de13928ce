"""Residuals, gains and rankings by hand."""

import numpy as np
import pytest

from client.propagation.residual import (
    Suggestion,
    advise,
    against_network,
    between_networks,
    doubt,
    expected_foreground,
    gain_per_slice,
    rank,
    residual_per_slice,
    suggest,
)
from common.scans import LabelMap, LabelSource, SliceRef


def voxels(*probabilities: tuple[float, ...]) -> np.ndarray:
    """Probabilities of voxels along the last axis, (N, 1, 1, K)."""
    return np.array(probabilities, dtype=np.float32).T[:, None, None]


def proxy(
    soft: np.ndarray,
    *,
    weight: tuple[float, ...],
    expert: tuple[bool, ...] | None = None,
    classes: tuple[int, ...] = (1, 2),
    spread: tuple[int, ...] = (1, 2),
    source: LabelSource = "propagated",
) -> LabelMap:
    shape = soft.shape[1:]
    painted = np.array(expert or [False] * shape[2]).reshape(shape)
    return LabelMap(
        classes,
        soft,
        np.array(weight, dtype=np.float32).reshape(shape),
        painted,
        spread,
        source,
    )


def test_a_dispute_is_the_chance_that_both_draw_different_labels() -> None:
    said = proxy(voxels((1, 0, 0), (0, 1, 0), (0.5, 0.5, 0), (0, 0, 1)), weight=(1, 0.2, 1, 0))
    predicted = voxels((0.6, 0.3, 0.1), (0, 0, 1), (0.5, 0.5, 0), (1, 0, 0))
    # 0.4 leaves the background; all moves to the other class; agreed; nothing is known there.
    assert against_network(said, predicted).ravel() == pytest.approx([0.4, 1, 0, 0])


def test_what_a_segmenter_joined_is_in_dispute_where_it_is_sure_of_nothing() -> None:
    # Three classes and the background at even odds weigh nothing, and are no agreement.
    even = voxels((0.25, 0.25, 0.25, 0.25))
    said = proxy(even, weight=(0,), classes=(1, 2, 3), spread=(1, 2, 3), source="pseudo")
    assert against_network(said, voxels((1, 0, 0, 0))).ravel() == pytest.approx([0.75])


def test_a_class_that_is_unknown_away_from_painted_voxels_is_background_on_both_sides() -> None:
    said = proxy(
        voxels((1, 0, 0), (1, 0, 0), (0, 1, 0)),
        weight=(1, 1, 1),
        expert=(False, True, False),
        spread=(1,),
    )
    predicted = voxels((0.2, 0, 0.8), (0.2, 0, 0.8), (0.3, 0.5, 0.2))
    assert against_network(said, predicted).ravel() == pytest.approx([0, 0.8, 0.5])


def test_labels_that_nobody_looked_for_count_as_background() -> None:
    said = proxy(voxels((1, 0), (0, 1)), weight=(1, 1), classes=(2,), spread=(2,))
    predicted = voxels((0.1, 0.9, 0), (0.1, 0.2, 0.7))
    assert against_network(said, predicted).ravel() == pytest.approx([0, 0.3])


def test_consecutive_networks_and_doubt_by_hand() -> None:
    now, before = voxels((0.8, 0.1, 0.1), (1, 0, 0)), voxels((0.5, 0.5, 0), (1, 0, 0))
    assert between_networks(now, before).ravel() == pytest.approx([0.4, 0])
    assert doubt(now).ravel() == pytest.approx([1 - (0.64 + 0.01 + 0.01), 0])
    assert expected_foreground(now) == pytest.approx(0.2)


def test_disputes_lie_between_nothing_and_all_and_look_alike_from_both_sides() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.dirichlet(np.ones(3), (2, 3, 4, 5)).transpose(0, 4, 1, 2, 3)
    apart = between_networks(one, other)
    assert ((apart > 0) & (apart < 1)).all()
    np.testing.assert_array_equal(apart, between_networks(other, one))
    np.testing.assert_array_equal(between_networks(one, one), 0)
    known = np.ones(one.shape[1:], dtype=np.float32)
    same = LabelMap((1, 2), other, known, known > 1, (1, 2), "pseudo")
    np.testing.assert_allclose(against_network(same, one), apart, atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_residual_of_a_slice_is_the_mean_over_disputes_of_its_sum(axis: int) -> None:
    one = np.moveaxis(np.array([[[1.0, 1], [1, 0]], [[0, 0], [0, 0.5]]]), 0, axis)
    other = np.zeros((2, 2, 2))
    assert residual_per_slice([one], axis).tolist() == [3, 0.5]
    assert residual_per_slice([one, other], axis).tolist() == [1.5, 0.25]


def test_gains_by_hand() -> None:
    # Slice 5 is painted: 4 and 5 are settled. Of 4 0 2 a neighbour settles half.
    settled, gain = gain_per_slice(np.array([4.0, 0, 2, 0, 9, 6]), [5], 50.0, delta=1)
    assert settled.tolist() == [4, 3, 2, 1, 0, 0]
    # Half of them are the network's mistakes; each costs 1 / (2 * 50) of Dice.
    assert gain.tolist() == pytest.approx([0.02, 0.015, 0.01, 0.005, 0, 0])


def test_a_wrong_voxel_costs_about_what_the_gain_says() -> None:
    truth = np.zeros(1000, dtype=bool)
    truth[:400] = True
    for found in (truth & (np.arange(1000) >= 8), truth | (np.arange(1000) >= 992)):
        lost = 1 - 2 * (truth & found).sum() / (truth.sum() + found.sum())
        # 8 wrong voxels are those expected of 16 in dispute.
        _, gain = gain_per_slice(np.array([16.0, 0, 0]), [], 400.0, delta=0)
        assert gain[0] == pytest.approx(lost, rel=0.02)


def test_a_slice_alone_settles_only_itself_and_no_gain_is_more_than_all() -> None:
    settled, gain = gain_per_slice(np.array([3.0, 800]), [], 0.2, delta=0)
    assert settled.tolist() == [3, 800]
    assert gain.tolist() == [0.75, 1]


def test_slices_near_painted_ones_are_not_asked_for() -> None:
    residual = np.array([0, 1, 9, 8, 7, 2, 1.0])
    assert suggest(("scan", 0), residual, [2], 100, delta=1).ref == SliceRef("scan", 0, 4)
    assert suggest(("scan", 0), residual, [2], 100, delta=2).ref == SliceRef("scan", 0, 5)
    nothing = suggest(("scan", 0), residual, [1, 5], 100, delta=2)
    assert (nothing.expected_gain, nothing.disputed_voxels) == (0, 0)


def test_the_empty_slice_beyond_an_organ_s_end_is_asked_for() -> None:
    # Carried from slice 0, the organ runs on to slice 3; the network ends it after slice 1.
    said = proxy(voxels(*[(0, 1, 0)] * 4, *[(1, 0, 0)] * 2), weight=(1,) * 6)
    predicted = voxels(*[(0, 1, 0)] * 2, *[(1, 0, 0)] * 4)
    residual = residual_per_slice([against_network(said, predicted)], 2)
    assert residual.tolist() == [0, 0, 1, 1, 0, 0]
    assert suggest(("scan", 2), residual, [0], 2.0, delta=0).ref.index == 2


def test_of_equal_slices_the_first_is_taken() -> None:
    assert suggest(("scan", 1), np.array([1.0, 2, 2]), [], 10, delta=0).ref.index == 1


def worth(scan_id: str, index: int, gain: float) -> Suggestion:
    return Suggestion(SliceRef(scan_id, 0, index), gain, 100 * gain)


def test_the_ranking_does_not_depend_on_the_order_in_which_scans_come() -> None:
    found = [worth("b", 3, 0.2), worth("c", 1, 0.3), worth("a", 9, 0.2), worth("a", 2, 0.2)]
    ranked = rank(found, least_gain=0.1)
    assert [(s.ref.scan_id, s.ref.index) for s in ranked] == [("c", 1), ("a", 2), ("b", 3)]
    assert rank(found[::-1], least_gain=0.1) == ranked


def test_one_was_enough_where_nothing_promises_more_than_the_least_gain() -> None:
    ranked = rank([worth("a", 1, 0.01), worth("b", 1, 0.005)], least_gain=0.01)
    assert ranked == []
    assert advise(ranked, 1) == "one was enough"
    assert advise(ranked, 3) == "the painted slices were enough"


def test_the_advice_names_the_slice_and_what_it_promises() -> None:
    said = advise(rank([worth("a", 12, 0.0234), worth("b", 1, 0.001)], least_gain=0), 2)
    assert said == (
        "the next slice worth painting is sagittal 12 of scan a, expected gain 0.023 Dice"
    )
