"""Scores by hand, and how they become a row."""

import numpy as np
import pytest

from common.scans import SliceRef
from simulations.propagation_scores import ScanScore, Trial, score_scan, summarise

LAST_AXIS = SliceRef("scan", 2, 1)


def column(*along: int) -> np.ndarray:
    """One voxel per slice along the last axis, beside a voxel of background."""
    return np.array([[along, [0] * len(along)]], dtype=np.uint8)


def test_overlap_and_ends_by_hand() -> None:
    # Slice 1 was painted. Without it: found on 0, 2, 3, true on 2, 3, 4.
    found, truth = column(1, 1, 1, 1, 0, 0), column(0, 1, 1, 1, 1, 0)
    score = score_scan(found, truth, LAST_AXIS)
    assert score.dice == {1: 2 * 2 / (3 + 3)}
    assert (score.overrun_slices, score.underrun_slices) == ({1: 1}, {1: 1})
    assert score.by_distance == ((1, 0), (1, 1), (2, 1), (3, 0))


def test_the_painted_slice_does_not_count() -> None:
    found, truth = column(0, 2, 1, 0), column(0, 1, 1, 0)
    assert score_scan(found, truth, LAST_AXIS).dice == {1: 1}


def test_missed_and_invented_structures_count_zero() -> None:
    found, truth = column(3, 1, 1, 0), column(0, 1, 1, 2)
    score = score_scan(found, truth, LAST_AXIS)
    assert score.dice == {1: 1, 2: 0, 3: 0}
    assert score.overrun_slices == {1: 0, 2: 0, 3: 1}
    assert score.underrun_slices == {1: 0, 2: 1, 3: 0}
    assert score.mean_dice == pytest.approx(1 / 3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_may_be_painted(axis: int) -> None:
    found = np.moveaxis(column(1, 1, 1, 1, 0), 2, axis)
    truth = np.moveaxis(column(0, 1, 1, 1, 1), 2, axis)
    score = score_scan(found, truth, SliceRef("scan", axis, 1))
    assert score.dice == {1: 2 * 2 / (3 + 3)}


def test_a_scan_of_one_slice_has_nothing_to_score() -> None:
    score = score_scan(column(1), column(1), SliceRef("scan", 2, 0))
    assert (score.dice, score.by_distance, score.mean_dice) == ({}, (), None)
    row = summarise([Trial((score,), 0.1)], {1: "head"}, ("m", "axial", "centre"), 0.0)
    assert (row.mean_dice_without_annotated, row.overrun_slices, row.dice) == (None, None, {})
    assert row.dice_std_over_scans is None


def scan(head: float, body: float | None, over: int = 0) -> ScanScore:
    dice = {1: head} if body is None else {1: head, 2: body}
    slices = dict.fromkeys(dice, over)
    return ScanScore(dice, slices, dict.fromkeys(dice, 0), ((1, head), (2, 0.5)))


def test_the_mean_is_over_classes_of_the_mean_over_scans() -> None:
    trial = Trial((scan(0.8, 0.4, over=2), scan(0.6, None, over=4)), 0.5)
    row = summarise([trial], {1: "head", 2: "body"}, ("copy", "axial", "centre"), 0.0)
    assert row.dice == pytest.approx({"head": 0.7, "body": 0.4})
    assert row.mean_dice_without_annotated == pytest.approx(0.55)
    assert row.overrun_slices == (3 + 2) / 2
    # The scans' means are 0.6 and 0.6.
    assert row.dice_std_over_scans == pytest.approx(0)
    assert row.dice_std_over_seeds is None
    assert row.dice_by_distance == ((1, pytest.approx(0.7), 2), (2, 0.5, 2))
    assert (row.scans, row.seeds) == (2, 1)


def test_seeds_are_averaged_and_their_spread_is_told() -> None:
    trials = [Trial((scan(0.8, 0.6),), 1.0), Trial((scan(0.6, 0.4),), 3.0)]
    row = summarise(trials, {1: "head", 2: "body"}, ("net", "axial", "centre"), 7.0)
    assert row.dice == pytest.approx({"head": 0.7, "body": 0.5})
    assert row.mean_dice_without_annotated == pytest.approx(0.6)
    assert row.dice_std_over_seeds == pytest.approx(0.1 * 2**0.5)  # of 0.7 and 0.5
    assert (row.seeds, row.scans, row.seconds_per_scan, row.training_seconds) == (2, 1, 2.0, 7.0)
