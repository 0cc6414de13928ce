"""What was painted on the same slices for other tasks counts, and nothing else does."""

import numpy as np
import pytest

from client.store.annotations import latest_annotations, save_annotation
from client.store.complete_annotations import complete_annotations
from client.store.reviews import save_review
from client.store.scans import CatalogScan, find_scan, insert_scan
from client.store.store import Store
from common.scans import SliceAnnotation, SliceRef

BOTH = ("first", "second")


@pytest.fixture
def pair(store: Store, scan_ids: list[str]) -> tuple[str, str]:
    """A volume of 5 x 6 x 4 voxels that serves two tasks."""
    first = find_scan(store, scan_ids[0])
    values = {**vars(first), "scan_id": f"{first.scan_id}-second", "task": "second"}
    with store.connect() as connection:
        insert_scan(connection, CatalogScan(**values))
    return first.scan_id, values["scan_id"]


def paint(
    store: Store, scan_id: str, index: int, row: list[int], looked_for: tuple[int, ...]
) -> None:
    """The same six pixels in each of the five rows."""
    mask = np.tile(np.array(row, dtype=np.uint8), (5, 1))
    save_annotation(store, SliceAnnotation(SliceRef(scan_id, 2, index), mask, looked_for, "a", 1.0))


def first_row(annotation: SliceAnnotation) -> tuple[list[int], tuple[int, ...]]:
    return annotation.mask[0].tolist(), annotation.looked_for


def test_the_same_slice_painted_for_two_tasks_tells_either_of_both(
    store: Store, pair: tuple[str, str]
) -> None:
    first, second = pair
    paint(store, first, 1, [0, 1, 1, 0, 0, 0], (1,))
    paint(store, second, 1, [0, 0, 2, 2, 3, 0], (2, 3))
    paint(store, second, 3, [3, 3, 3, 3, 3, 3], (2, 3))  # a slice that the first has not
    (known,) = complete_annotations(store, first, BOTH)
    # Where both painted, the scan's own task is right.
    assert first_row(known) == ([0, 1, 1, 2, 3, 0], (1, 2, 3))
    assert (known.ref, known.annotator) == (SliceRef(first, 2, 1), "a")
    # The second has a slice that was not painted for the first.
    kept = complete_annotations(store, second, BOTH)
    assert [first_row(one) for one in kept] == [
        ([0, 0, 2, 2, 3, 0], (2, 3)),
        ([3, 3, 3, 3, 3, 3], (2, 3)),
    ]
    paint(store, first, 3, [0, 0, 0, 0, 0, 0], (1,))
    completed = complete_annotations(store, second, BOTH)
    assert [first_row(one) for one in completed] == [
        ([0, 1, 2, 2, 3, 0], (1, 2, 3)),
        ([3, 3, 3, 3, 3, 3], (1, 2, 3)),
    ]
    # What is saved stays as it was painted.
    assert first_row(latest_annotations(store, second)[0]) == ([0, 0, 2, 2, 3, 0], (2, 3))


def test_other_tasks_count_if_they_are_named_and_not_flagged(
    store: Store, pair: tuple[str, str]
) -> None:
    first, second = pair
    paint(store, first, 1, [1, 0, 0, 0, 0, 0], (1,))
    paint(store, second, 1, [0, 2, 0, 0, 0, 0], (2,))
    own, both = [1, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]
    assert first_row(complete_annotations(store, first, ("first",))[0]) == (own, (1,))
    assert first_row(complete_annotations(store, first, BOTH)[0]) == (both, (1, 2))
    save_review(store, second, "flagged", "anna", "not the lobe")
    assert first_row(complete_annotations(store, first, BOTH)[0]) == (own, (1,))
    assert complete_annotations(store, f"{first}-third", BOTH) == []


def test_classes_that_were_looked_for_on_some_slices_only_do_not_count(
    store: Store, pair: tuple[str, str]
) -> None:
    first, second = pair
    for index, looked_for in ((1, (2,)), (2, (2, 3))):
        paint(store, first, index, [1, 0, 0, 0, 0, 0], (1,))
        paint(store, second, index, [0, 2, 0, 0, 0, 0], looked_for)
    assert {one.looked_for for one in complete_annotations(store, first, BOTH)} == {(1,)}
    # Looked for on both, the class counts on both.
    paint(store, second, 1, [0, 2, 3, 0, 0, 0], (2, 3))
    completed = complete_annotations(store, first, BOTH)
    assert [first_row(one) for one in completed] == [
        ([1, 2, 3, 0, 0, 0], (1, 2, 3)),
        ([1, 2, 0, 0, 0, 0], (1, 2, 3)),
    ]


def test_the_same_classes_of_another_task_change_nothing(
    store: Store, pair: tuple[str, str]
) -> None:
    first, second = pair
    paint(store, first, 1, [1, 0, 0, 0, 0, 0], (1, 2))
    paint(store, second, 1, [0, 2, 0, 0, 0, 0], (1, 2))
    assert first_row(complete_annotations(store, first, BOTH)[0]) == ([1, 0, 0, 0, 0, 0], (1, 2))
