"""How far annotators agree: Dice by hand."""

import numpy as np
import pytest

from client.annotation.agreement import agreements
from common.scans import SliceAnnotation, SliceRef


def _version(annotator: str, *rows: str) -> SliceAnnotation:
    mask = np.array([[int(pixel) for pixel in row] for row in rows], dtype=np.uint8)
    return SliceAnnotation(SliceRef("scan", 2, 0), mask, (1, 2, 3), annotator, 1.0)


def test_one_annotator_agrees_with_nobody() -> None:
    assert agreements([], [1]) == []
    assert agreements([_version("anna", "11"), _version("anna", "00")], [1]) == []


def test_dice_of_each_class_between_the_newest_versions() -> None:
    versions = [
        _version("ben", "2222", "2222"),
        _version("anna", "1110", "0020"),
        _version("ben", "1100", "2000"),
    ]
    (found,) = agreements(versions, [1, 2, 3])
    assert (found.one, found.other) == ("anna", "ben")
    # Class 1: 3 and 2 pixels, 2 in common; class 2: one each, apart; class 3: nobody's.
    assert found.dice == {1: pytest.approx(2 * 2 / 5), 2: 0.0, 3: None}
    assert found.mean == pytest.approx((0.8 + 0) / 2)


def test_two_who_say_that_nothing_is_here_have_nothing_to_compare() -> None:
    (found,) = agreements([_version("anna", "00"), _version("ben", "00")], [1])
    assert (found.dice, found.mean) == ({1: None}, None)


def test_three_annotators_make_three_pairs() -> None:
    versions = [_version(name, "10") for name in ("carl", "anna", "ben")]
    pairs = [(one.one, one.other, one.mean) for one in agreements(versions, [1])]
    assert pairs == [("anna", "ben", 1.0), ("anna", "carl", 1.0), ("ben", "carl", 1.0)]
