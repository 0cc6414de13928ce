"""Painted slices: all versions kept, the newest given back, misfits refused."""

from dataclasses import replace

import numpy as np
import pytest

from client.store.annotations import (
    all_versions,
    annotation_effort,
    latest_annotations,
    load_version,
    painted_slices,
    save_annotation,
    slice_versions,
)
from client.store.store import Store
from common.errors import StoreError
from common.scans import SliceAnnotation, SliceRef


def _painted(scan_id: str, axis: int = 2, index: int = 1, value: int = 1) -> SliceAnnotation:
    shape = tuple(n for place, n in enumerate((5, 6, 4)) if place != axis)
    mask = np.full(shape, value, dtype=np.uint8)
    return SliceAnnotation(SliceRef(scan_id, axis, index), mask, (1, 2), "anna", 12.5)


def test_each_save_is_a_version_and_the_newest_counts(store: Store, scan_ids: list[str]) -> None:
    versions = [save_annotation(store, _painted(scan_ids[0], value=v)) for v in (1, 2, 0)]
    assert versions == [1, 2, 3]
    (latest,) = latest_annotations(store, scan_ids[0])
    assert latest.mask.max() == 0
    kept = all_versions(store, latest.ref)
    assert [int(annotation.mask.max()) for annotation in kept] == [1, 2, 0]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_annotation_comes_back_as_it_was(store: Store, scan_ids: list[str], axis: int) -> None:
    painted = _painted(scan_ids[0], axis)
    save_annotation(store, painted)
    (found,) = latest_annotations(store, scan_ids[0])
    np.testing.assert_array_equal(found.mask, painted.mask)
    assert replace(found, mask=painted.mask) == painted
    assert latest_annotations(store, scan_ids[1]) == []


def test_slices_come_by_axis_and_index(store: Store, scan_ids: list[str]) -> None:
    for axis, index in ((2, 3), (0, 4), (2, 0)):
        save_annotation(store, _painted(scan_ids[0], axis, index))
    found = [(a.ref.axis, a.ref.index) for a in latest_annotations(store, scan_ids[0])]
    assert found == [(0, 4), (2, 0), (2, 3)]


def test_effort_counts_slices_once_and_all_seconds(store: Store, scan_ids: list[str]) -> None:
    assert annotation_effort(store) == (0, 0.0)
    for scan_id in (scan_ids[0], scan_ids[0], scan_ids[1]):
        save_annotation(store, _painted(scan_id))
    assert annotation_effort(store) == (2, 37.5)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"mask": np.zeros((6, 5), np.uint8)}, r"has \(5, 6\) pixels, the mask \(6, 5\)"),
        (
            {"mask": np.full((5, 6), 9, np.uint8)},
            r"labels \[9\] that were not .* expected 0 and \[1, 2\]",
        ),
        ({"ref": SliceRef("", 2, 4)}, "has slices 0 to 3 along axis 2, not 4"),
        ({"ref": SliceRef("", 2, -1)}, "has slices 0 to 3"),
        ({"ref": SliceRef("", 3, 0)}, "axes 0, 1 and 2, not 3"),
    ],
)
def test_what_does_not_fit_is_refused(
    store: Store, scan_ids: list[str], change: dict[str, object], reason: str
) -> None:
    painted = replace(_painted(scan_ids[0]), **change)
    painted = replace(painted, ref=replace(painted.ref, scan_id=scan_ids[0]))
    with pytest.raises(StoreError, match=reason):
        save_annotation(store, painted)
    assert latest_annotations(store, scan_ids[0]) == []


def test_an_unknown_scan_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no scan 'scan-x'"):
        save_annotation(store, _painted("scan-x"))


def test_the_newest_of_each_slice_is_told_without_its_mask(
    store: Store, scan_ids: list[str]
) -> None:
    for index, value in ((1, 1), (1, 0), (3, 2)):
        save_annotation(store, _painted(scan_ids[0], index=index, value=value))
    save_annotation(store, _painted(scan_ids[1]))
    found = painted_slices(store, scan_ids[0])
    assert [(one.ref.index, one.version, one.present) for one in found] == [
        (1, 2, ()),
        (3, 1, (2,)),
    ]
    assert {(one.annotator, one.seconds_spent) for one in found} == {("anna", 12.5)}
    assert found[0].time <= found[1].time


def test_every_version_of_a_slice_is_told_and_loaded(store: Store, scan_ids: list[str]) -> None:
    first = _painted(scan_ids[0], value=1)
    save_annotation(store, first)
    save_annotation(store, replace(_painted(scan_ids[0], value=2), annotator="ben"))
    told = slice_versions(store, first.ref)
    assert [(one.version, one.annotator, one.present) for one in told] == [
        (1, "anna", (1,)),
        (2, "ben", (2,)),
    ]
    second = load_version(store, first.ref, 2)
    assert second is not None
    assert (second.annotator, int(second.mask.min())) == ("ben", 2)
    assert load_version(store, first.ref, 3) is None
    assert slice_versions(store, SliceRef(scan_ids[0], 2, 0)) == []


def test_the_effort_can_be_told_of_one_task(store: Store, scan_ids: list[str]) -> None:
    for axis, index in ((0, 1), (0, 1), (2, 1), (2, 0)):
        save_annotation(store, _painted(scan_ids[0], axis, index))
    assert annotation_effort(store) == (3, 50.0)
    assert annotation_effort(store, "first") == (3, 50.0)
    assert annotation_effort(store, "second") == (0, 0.0)
