"""A scan's own slice times the network, by hand and by its laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from client.propagation.fuse import fuse
from client.propagation.spread_labels import painted_labels
from common.plan import Propagation
from common.scans import LabelMap, SliceAnnotation, SliceRef

SHAPE = (5, 5, 9)
START = 4
SETTINGS = Propagation(weight_per_slice=0.8, segmenter_weight=0.6)


def painted(
    value: int = 1, looked_for: tuple[int, ...] = (1,), *, side: int = 4, index: int = START
) -> SliceAnnotation:
    """A square of `side` x `side` pixels with the value; 0 paints nothing."""
    mask = np.zeros(SHAPE[:2], dtype=np.uint8)
    mask[:side, :side] = value
    return SliceAnnotation(SliceRef("scan", 2, index), mask, looked_for, "someone", 1.0)


def everywhere(*chances: float) -> np.ndarray:
    """The same probabilities at every voxel."""
    return np.broadcast_to(
        np.array(chances, np.float32)[:, None, None, None], (len(chances), *SHAPE)
    ).copy()


def spread_as(annotations: list[SliceAnnotation], *chances: float) -> LabelMap:
    """A propagated label map with the same probabilities away from the painted slices."""
    alone = painted_labels(SHAPE, annotations)
    soft = np.where(alone.expert, alone.soft, everywhere(*chances))
    return LabelMap(alone.classes, soft, alone.weight, alone.expert, alone.spread, "propagated")


def test_one_voxel_by_hand() -> None:
    annotation = painted()
    fused = fuse(spread_as([annotation], 0.3, 0.7), [annotation], everywhere(0.6, 0.4), SETTINGS)
    # 16 painted pixels reach 0.4 x 4 = 1.6 slices; two slices away the propagation counts
    # 3 exp(-2 / 1.6) = 0.8595 times.
    counts = 3 * np.exp(-2 / 1.6)
    background = (0.6 + 1e-4) * (0.3 + 0.05) ** counts
    organ = (0.4 + 1e-4) * (0.7 + 0.05) ** counts
    share = organ / (background + organ)
    assert share == pytest.approx(0.5620, abs=5e-4)
    np.testing.assert_allclose(fused.soft[1, :, :, [START - 2, START + 2]], share, rtol=1e-5)
    # It weighs 0.6 at most: the excess over even odds of it, and 0.8 for each of two slices.
    np.testing.assert_allclose(
        fused.weight[:, :, START + 2], 0.6 * (2 * share - 1) * 0.8**2, rtol=1e-4
    )
    assert (fused.classes, fused.spread, fused.source) == ((1,), (1,), "pseudo")


def test_where_nothing_can_be_carried_the_network_alone_is_left() -> None:
    shape = (*SHAPE[:2], 2)
    annotation = painted(index=0)
    alone = painted_labels(shape, [annotation])
    predicted = everywhere(0.3, 0.7)[..., :2]
    fused = fuse(alone, [annotation], predicted, SETTINGS)
    share = (0.7 + 1e-4) / (1 + 2e-4)
    np.testing.assert_allclose(fused.soft[1, :, :, 1], share, rtol=1e-5)
    np.testing.assert_array_equal(fused.hard()[..., 0], annotation.mask)


def test_painted_slices_are_exact_whatever_the_network_says() -> None:
    annotations = [painted(), painted(index=7), painted(0, index=0)]
    fused = fuse(spread_as(annotations, 0.5, 0.5), annotations, everywhere(0, 1), SETTINGS)
    for annotation in annotations:
        where = annotation.ref.selection
        np.testing.assert_array_equal(fused.hard()[where], annotation.mask)
        assert set(np.unique(fused.soft[:, *where])) == {0, 1}
        assert (fused.weight[where] == 1).all()
        assert fused.expert[where].all()
    assert fused.expert.sum() == 3 * 25


def test_an_empty_slice_leaves_the_networks_answer() -> None:
    annotation = painted(0)
    predicted = everywhere(0.3, 0.7)
    fused = fuse(spread_as([annotation], 1, 0), [annotation], predicted, SETTINGS)
    elsewhere = ~fused.expert
    np.testing.assert_allclose(fused.soft[:, elsewhere], predicted[:, elsewhere], atol=2e-4)


def test_a_class_that_is_painted_nowhere_comes_from_the_network_alone() -> None:
    annotation = painted(1, (1, 2))
    labels = spread_as([annotation], 0.4, 0.6, 0)
    fused = fuse(labels, [annotation], everywhere(0.5, 0.1, 0.4), SETTINGS)
    soft = fused.soft[:, 0, 0, START + 1]
    # The propagation says nothing between the background and the second class.
    assert soft[2] / soft[0] == pytest.approx(0.4001 / 0.5001, rel=1e-4)
    assert soft[1] / soft[0] > 0.1 / 0.5
    # Painted, but not found here by the propagation, it is held down.
    both = painted(1, (1, 2))
    both.mask[4, 4] = 2
    found = fuse(spread_as([both], 0.4, 0.6, 0), [both], everywhere(0.5, 0.1, 0.4), SETTINGS)
    held_down = found.soft[:, 0, 0, START + 1]
    assert held_down[2] / held_down[0] < 0.2


def test_labels_that_nobody_looks_for_here_count_as_background() -> None:
    # Looked for are 1 and 3; the network's 0.3 for label 2 is background here.
    annotation = painted(0, (1, 3))
    fused = fuse(
        spread_as([annotation], 1, 0, 0), [annotation], everywhere(0.1, 0.2, 0.3, 0.4), SETTINGS
    )
    assert fused.classes == (1, 3)
    np.testing.assert_allclose(fused.soft[:, 0, 0, 0], [0.4, 0.2, 0.4], atol=2e-4)


def share_of_organ(annotation: SliceAnnotation, index: int) -> float:
    """The organ's probability where the propagation is for it and the network against it."""
    labels = spread_as([annotation], 0.1, 0.9)
    fused = fuse(labels, [annotation], everywhere(0.7, 0.3), SETTINGS)
    return float(fused.soft[1, 0, 0, index])


def test_the_propagation_counts_less_with_distance() -> None:
    shares = [share_of_organ(painted(), index) for index in range(START + 1, SHAPE[2])]
    assert (np.diff(shares) < 0).all()
    assert [share_of_organ(painted(), START - n) for n in range(1, 5)] == pytest.approx(shares)
    # Far away the network's answer is left: 0.3.
    assert shares[0] > 0.8
    assert 0.3 < shares[-1] < 0.5


def test_the_propagation_counts_more_the_more_is_painted() -> None:
    shares = [share_of_organ(painted(side=side), START + 2) for side in (0, 1, 2, 4)]
    assert (np.diff(shares) > 0).all()
    assert shares[0] == pytest.approx(0.3, abs=1e-3)


def test_the_nearest_painted_slice_decides_how_much_it_counts() -> None:
    near, far = painted(side=3, index=2), painted(side=3, index=8)
    both = [near, far]
    one_of_two = fuse(spread_as(both, 0.1, 0.9), both, everywhere(0.7, 0.3), SETTINGS)
    alone = fuse(spread_as([near], 0.1, 0.9), [near], everywhere(0.7, 0.3), SETTINGS)
    np.testing.assert_allclose(one_of_two.soft[..., :5], alone.soft[..., :5], rtol=1e-6)
    np.testing.assert_allclose(one_of_two.weight[..., :5], alone.weight[..., :5], rtol=1e-6)
    np.testing.assert_allclose(one_of_two.soft[..., 7], alone.soft[..., 3], rtol=1e-6)


def test_slices_across_each_other_count_by_their_own_distance() -> None:
    along_last = painted()
    mask = np.zeros((5, 9), dtype=np.uint8)
    mask[:4, :4] = 1
    along_first = SliceAnnotation(SliceRef("scan", 0, 4), mask, (1,), "someone", 1.0)
    both = [along_first, along_last]
    alone = painted_labels(SHAPE, [along_last])
    soft = np.where(alone.expert, alone.soft, everywhere(0, 1))
    labels = LabelMap((1,), soft, alone.weight, alone.expert, (1,), "propagated")
    fused = fuse(labels, both, everywhere(0, 1), Propagation(weight_per_slice=0.5))
    # Voxel (1, 0, 8): three from the one slice, four from the other, and nobody doubts it.
    assert fused.weight[1, 0, 8] == pytest.approx(0.7 * 0.5**3, rel=1e-2)
    assert fused.weight[0, 0, 5] == pytest.approx(0.7 * 0.5, rel=1e-2)


def test_a_certain_voxel_weighs_most_and_one_at_even_odds_nothing() -> None:
    annotation = painted()
    flat = SETTINGS.model_copy(update={"weight_per_slice": 1.0})
    sure = fuse(spread_as([annotation], 0, 1), [annotation], everywhere(0, 1), flat)
    assert sure.weight[0, 0, START + 1] == pytest.approx(0.6, rel=1e-3)
    even = fuse(spread_as([annotation], 0.5, 0.5), [annotation], everywhere(0.5, 0.5), flat)
    np.testing.assert_allclose(even.weight[..., START + 1], 0, atol=1e-6)


def test_neither_side_may_veto_the_other() -> None:
    annotation = painted()
    denied = fuse(spread_as([annotation], 1, 0), [annotation], everywhere(0.01, 0.99), SETTINGS)
    assert denied.soft[1, 0, 0, START + 4] > 0.5
    unseen = fuse(spread_as([annotation], 0, 1), [annotation], everywhere(1, 0), SETTINGS)
    assert 0 < unseen.soft[1, 0, 0, START + 1] < 1


chances = npst.arrays(np.float32, (3, *SHAPE), elements=st.floats(0, 1, width=16))


@given(raw_labels=chances, raw_predicted=chances)
@settings(max_examples=25, deadline=None)
def test_every_voxel_holds_a_distribution_and_a_fair_weight(
    raw_labels: np.ndarray, raw_predicted: np.ndarray
) -> None:
    annotation = painted(2, (1, 2))
    labels = spread_as([annotation], 1, 0, 0)
    raw = (raw_labels + 0.01) / (raw_labels + 0.01).sum(0)
    soft = np.where(labels.expert, labels.soft, raw)
    labels = LabelMap((1, 2), soft, labels.weight, labels.expert, (2,), "propagated")
    predicted = (raw_predicted + 0.01) / (raw_predicted + 0.01).sum(0)
    kept = soft.copy(), predicted.copy()
    fused = fuse(labels, [annotation], predicted, SETTINGS)
    np.testing.assert_allclose(fused.soft.sum(0), 1, atol=1e-5)
    assert fused.soft.min() >= 0
    assert (fused.weight[~fused.expert] <= 0.6 * 0.8 + 1e-6).all()
    assert fused.weight.min() >= 0
    np.testing.assert_array_equal(labels.soft, kept[0])
    np.testing.assert_array_equal(predicted, kept[1])
