"""Doubts: the newest of each scan, found by scan."""

from client.store.doubts import SliceDoubt, find_doubts, save_doubt
from client.store.store import Store


def test_the_newest_doubt_of_a_scan_stays(store: Store, scan_ids: list[str]) -> None:
    old, new = SliceDoubt("f-1", 3, (0.0, 2.5)), SliceDoubt("f-1", 5, (1.0, 0.25))
    save_doubt(store, scan_ids[0], old)
    assert find_doubts(store, scan_ids) == {scan_ids[0]: old}
    save_doubt(store, scan_ids[0], new)
    assert find_doubts(store, scan_ids) == {scan_ids[0]: new}


def test_only_the_asked_scans_are_found(store: Store, scan_ids: list[str]) -> None:
    for place, scan_id in enumerate(scan_ids):
        save_doubt(store, scan_id, SliceDoubt("f-1", place, (1.0,)))
    assert list(find_doubts(store, scan_ids[1:])) == sorted(scan_ids[1:])
    assert find_doubts(store, []) == {}
    assert find_doubts(store, ["scan-0000000000000000"]) == {}
