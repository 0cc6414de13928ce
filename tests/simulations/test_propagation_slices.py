import numpy as np
import pytest

from common.errors import SettingsError
from common.scans import Geometry, Scan, SliceRef
from simulations.propagation_slices import (
    LABEL_FREE,
    SLICE_CHOICES,
    best_slice,
    check_slice_choices,
    choose_slices,
    paint,
)


def areas(*pairs: tuple[int, int]) -> np.ndarray:
    """A label whose slices along the first axis have the given areas of classes 1 and 2."""
    label = np.zeros((len(pairs), 1, 40), np.uint8)
    for place, (first, second) in enumerate(pairs):
        label[place, 0, :first] = 1
        label[place, 0, first : first + second] = 2
    return label


def make_scan(label: np.ndarray) -> Scan:
    image = label[None].astype(np.float32)
    affine = tuple(tuple(row) for row in np.eye(4).tolist())
    shape = (label.shape[0], label.shape[1], label.shape[2])
    return Scan("scan", image, Geometry(shape, affine), "MR")


def test_the_best_slice_is_balanced() -> None:
    # Shares of the classes' own largest areas: (1, 0.2), (0.5, 0.6), (0.2, 1).
    assert best_slice(areas((20, 2), (10, 6), (4, 10)), 0) == 1


def test_the_best_slice_along_another_axis() -> None:
    label = np.moveaxis(areas((20, 2), (10, 6), (4, 10)), 0, 2)
    assert best_slice(label, 2) == 1


def test_without_a_slice_of_all_classes_the_mean_decides() -> None:
    assert best_slice(areas((0, 0), (5, 0), (20, 0), (0, 10), (0, 9)), 0) == 2
    assert best_slice(np.zeros((5, 2, 2), np.uint8), 0) == 2


def test_the_oracle_alone_looks_at_the_truth() -> None:
    label = areas((0, 0), (0, 0), (0, 0), (0, 0), (9, 4))
    scans, other = [make_scan(label)], [np.zeros_like(label)]
    assert choose_slices(scans, [label], 0, "oracle", 0) == [SliceRef("scan", 0, 4)]
    for choice in LABEL_FREE:
        seen = choose_slices(scans, [label], 0, choice, 5)
        assert seen == choose_slices(scans, other, 0, choice, 5)
    assert choose_slices(scans, [label], 0, "centre", 5) == [SliceRef("scan", 0, 2)]


def test_the_cohort_learns_from_the_slices_painted_before() -> None:
    label = areas(*[(9, 4) if 12 <= place < 16 else (0, 0) for place in range(20)])
    scans = [make_scan(label)] * 30
    blind = choose_slices(scans, [np.zeros_like(label)] * 30, 0, "cohort", 0)
    seeing = choose_slices(scans, [label] * 30, 0, "cohort", 0)
    hits = [sum(12 <= ref.index < 16 for ref in refs) for refs in (blind, seeing)]
    assert hits[1] > 1.5 * hits[0]


def test_a_slice_without_a_structure_is_painted_empty() -> None:
    annotation = paint(areas((0, 0), (3, 2)), SliceRef("scan", 0, 0), (1, 2))
    assert not annotation.mask.any()
    assert annotation.looked_for == (1, 2)
    shown = paint(areas((0, 0), (3, 2)), SliceRef("scan", 0, 1), (1, 2))
    assert np.unique(shown.mask).tolist() == [0, 1, 2]


def test_unknown_choices_are_named() -> None:
    check_slice_choices(SLICE_CHOICES)
    with pytest.raises(SettingsError, match=r"'best', 'worst': expected one or more of oracle, "):
        check_slice_choices(["oracle", "best", "worst"])
    with pytest.raises(SettingsError, match=r"\(none\)"):
        check_slice_choices([])
