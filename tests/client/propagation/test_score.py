"""Scores of spread labels, by hand."""

import numpy as np

from client.propagation.score import score_spread
from common.scans import LabelMap, SliceRef


def labels_of(hard: np.ndarray, *classes: int) -> LabelMap:
    soft = np.stack([hard == index for index in (0, *classes)]).astype(np.float32)
    weight = np.ones(hard.shape, dtype=np.float32)
    return LabelMap(classes, soft, weight, weight > 1, classes, "propagated")


def column(*along: int) -> np.ndarray:
    """One voxel per slice along the last axis, beside a voxel of background."""
    return np.array([[along, [0] * len(along)]], dtype=np.uint8)


def test_overlap_and_ends_by_hand() -> None:
    # Slice 1 was painted. Found on 0 to 3, true on 1 to 4: 3 voxels in common of 4 and 4.
    found, truth = column(1, 1, 1, 1, 0, 0), column(0, 1, 1, 1, 1, 0)
    score = score_spread(labels_of(found, 1), truth, SliceRef("scan", 2, 1))
    assert score is not None
    assert score.dice == 2 * 3 / (4 + 4)
    assert score.dice_without_annotated == 2 * 2 / (3 + 3)
    assert (score.overrun_slices, score.underrun_slices) == (1, 1)


def test_a_perfect_spread() -> None:
    truth = column(0, 1, 1, 0)
    score = score_spread(labels_of(truth, 1), truth, SliceRef("scan", 2, 2))
    assert score is not None
    assert (score.dice, score.dice_without_annotated) == (1, 1)
    assert (score.overrun_slices, score.underrun_slices) == (0, 0)


def test_an_object_on_the_painted_slice_alone_is_perfect_without_it() -> None:
    truth = column(0, 0, 1, 0)
    score = score_spread(labels_of(truth, 1), truth, SliceRef("scan", 2, 2))
    assert score is not None
    assert score.dice_without_annotated == 1


def test_structures_are_averaged_and_their_slices_summed() -> None:
    found = np.stack([column(1, 1, 1, 0)[0], column(2, 2, 0, 0)[0]])
    truth = np.stack([column(1, 1, 0, 0)[0], column(2, 2, 2, 2)[0]])
    score = score_spread(labels_of(found, 1, 2), truth, SliceRef("scan", 2, 0))
    assert score is not None
    assert score.dice == (2 * 2 / 5 + 2 * 2 / 6) / 2
    assert score.dice_without_annotated == (2 * 1 / 3 + 2 * 1 / 4) / 2
    assert (score.overrun_slices, score.underrun_slices) == (1, 2)


def test_a_class_that_was_not_painted_is_not_scored() -> None:
    found, truth = column(1, 1, 2, 2), column(1, 1, 0, 0)
    score = score_spread(labels_of(found, 1, 2), truth, SliceRef("scan", 2, 0))
    assert score is not None
    assert (score.dice, score.overrun_slices) == (1, 0)


def test_nothing_painted_gives_no_score() -> None:
    truth = column(1, 0, 0)
    assert score_spread(labels_of(truth, 1), truth, SliceRef("scan", 2, 2)) is None
