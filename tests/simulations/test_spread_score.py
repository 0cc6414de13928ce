"""Scores of spread labels, by hand."""

import numpy as np

from common.scans import LabelMap
from simulations.spread_score import score_spread


def labels_of(hard: np.ndarray, painted: set[int], *classes: int) -> LabelMap:
    soft = np.stack([hard == index for index in (0, *classes)]).astype(np.float32)
    weight = np.ones(hard.shape, dtype=np.float32)
    expert = np.broadcast_to(np.isin(range(hard.shape[2]), list(painted)), hard.shape)
    return LabelMap(classes, soft, weight, expert, classes, "propagated")


def column(*along: int) -> np.ndarray:
    """One voxel per slice along the last axis, beside a voxel of background."""
    return np.array([[along, [0] * len(along)]], dtype=np.uint8)


def test_overlap_and_ends_by_hand() -> None:
    # Slice 1 was painted. Found on 0 to 3, true on 1 to 4: 3 voxels in common of 4 and 4.
    found, truth = column(1, 1, 1, 1, 0, 0), column(0, 1, 1, 1, 1, 0)
    score = score_spread(labels_of(found, {1}, 1), truth, 2)
    assert score is not None
    assert score.dice == 2 * 3 / (4 + 4)
    assert score.dice_without_annotated == 2 * 2 / (3 + 3)
    assert (score.overrun_slices, score.underrun_slices) == (1, 1)


def test_a_perfect_spread() -> None:
    truth = column(0, 1, 1, 0)
    score = score_spread(labels_of(truth, {2}, 1), truth, 2)
    assert score is not None
    assert (score.dice, score.dice_without_annotated) == (1, 1)
    assert (score.overrun_slices, score.underrun_slices) == (0, 0)


def test_an_object_on_the_painted_slice_alone_leaves_nothing_to_score() -> None:
    truth = column(0, 0, 1, 0)
    score = score_spread(labels_of(truth, {2}, 1), truth, 2)
    assert score is not None
    assert (score.dice, score.dice_without_annotated) == (1, None)


def test_structures_are_averaged_and_their_slices_summed() -> None:
    found = np.stack([column(1, 1, 1, 0)[0], column(2, 2, 0, 0)[0]])
    truth = np.stack([column(1, 1, 0, 0)[0], column(2, 2, 2, 2)[0]])
    score = score_spread(labels_of(found, {0}, 1, 2), truth, 2)
    assert score is not None
    assert score.dice == (2 * 2 / 5 + 2 * 2 / 6) / 2
    assert score.dice_without_annotated == (2 * 1 / 3 + 2 * 1 / 4) / 2
    assert (score.overrun_slices, score.underrun_slices) == (1, 2)


def test_a_class_that_was_not_painted_is_not_scored() -> None:
    found, truth = column(1, 1, 2, 2), column(1, 1, 0, 0)
    score = score_spread(labels_of(found, {0}, 1, 2), truth, 2)
    assert score is not None
    assert (score.dice, score.overrun_slices) == (1, 0)


def test_nothing_painted_gives_no_score() -> None:
    truth = column(1, 0, 0)
    assert score_spread(labels_of(truth, {2}, 1), truth, 2) is None


def test_no_painted_slice_counts_as_spread() -> None:
    # Slices 0 and 1 were painted, and nothing was spread to the other two of the object.
    found, truth = column(1, 1, 0, 0), column(1, 1, 1, 1)
    score = score_spread(labels_of(found, {0, 1}, 1), truth, 2)
    assert score is not None
    assert (score.dice, score.dice_without_annotated) == (2 * 2 / 6, 0)
    assert (score.overrun_slices, score.underrun_slices) == (0, 2)


def test_with_every_slice_painted_nothing_is_left_to_score() -> None:
    truth = column(0, 1, 1, 0)
    score = score_spread(labels_of(truth, {0, 1, 2, 3}, 1), truth, 2)
    assert score is not None
    assert score.dice_without_annotated is None
