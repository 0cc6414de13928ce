"""Counts of what is there; no scan is loaded for them."""

import numpy as np

from client.store.annotations import save_annotation
from client.store.drafts import save_draft
from client.store.label_maps import MadeFrom, save_label_map
from client.store.reviews import save_review
from client.store.rounds import HospitalState, commit_round
from client.store.status import (
    count_annotated_scans,
    label_map_bytes_to_come,
    largest_scan_voxels,
    read_status,
)
from client.store.store import Store
from common.scans import LabelMap, SliceAnnotation, SliceRef

MASK = np.zeros((5, 6), dtype=np.uint8)


def _states(store: Store) -> dict[str, int]:
    (task,) = read_status(store).tasks
    return {state: number for state, number in task.states.items() if number}


def test_an_empty_store(store: Store) -> None:
    found = read_status(store)
    assert (found.hospital, found.tasks, found.rounds) == ("north", (), {})
    assert (found.slices, found.minutes, found.audit_rows, found.withdrawn) == (0, 0, 0, 0)
    assert largest_scan_voxels(store, ["first"]) == count_annotated_scans(store, ["first"]) == 0
    assert label_map_bytes_to_come(store) == 0


def test_the_last_thing_that_happened_decides_a_scans_state(
    store: Store, scan_ids: list[str]
) -> None:
    scan_id, ref = scan_ids[0], SliceRef(scan_ids[0], 2, 1)
    assert _states(store) == {"asked": 3}
    save_draft(store, ref, "ines", MASK, continues=(0,), seconds_spent=1)
    assert _states(store) == {"asked": 2, "drafted": 1}
    with store.connect() as connection:
        connection.execute("DELETE FROM drafts")
    save_annotation(store, SliceAnnotation(ref, MASK, (1,), "ines", 30.0))
    assert _states(store) == {"asked": 2, "painted": 1}
    save_review(store, scan_id, "flagged", "jo", "blurred")
    assert _states(store) == {"asked": 2, "flagged": 1}
    save_review(store, scan_id, "accepted", "jo", "")
    assert _states(store) == {"asked": 2, "accepted": 1}


def test_what_was_done_is_counted(store: Store, scan_ids: list[str]) -> None:
    ref = SliceRef(scan_ids[0], 2, 1)
    for _ in range(2):
        save_annotation(store, SliceAnnotation(ref, MASK, (1,), "ines", 45.0))
    commit_round(store, HospitalState("fed", 3), "digest", b"reply")
    with store.connect() as connection:
        connection.execute("INSERT INTO quarantine VALUES ('second', 'case9', 'damaged')")
    found = read_status(store)
    assert (found.slices, found.minutes) == (1, 1.5)
    assert found.rounds == {"fed": 3}
    assert found.quarantine == (("second", "case9", "damaged"),)
    assert [(task.task, task.scans, task.quarantined) for task in found.tasks] == [
        ("first", 3, 0),
        ("second", 0, 1),
    ]
    assert count_annotated_scans(store, ["first", "second"]) == 1
    assert count_annotated_scans(store, ["second"]) == 0
    assert largest_scan_voxels(store, ["first"]) == 5 * 6 * 4
    assert label_map_bytes_to_come(store) == 3 * 7 * 5 * 6 * 4
    soft = np.zeros((2, 5, 6, 4), dtype=np.float32)
    labels = LabelMap((1,), soft, soft[0], soft[0] > 0, (1,), "propagated")
    save_label_map(store, scan_ids[0], labels, MadeFrom("origin", "ours"))
    assert label_map_bytes_to_come(store) == 2 * 7 * 5 * 6 * 4
