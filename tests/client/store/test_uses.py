"""Which rounds used a scan: one row for rounds that follow each other."""

from client.store.store import Store
from client.store.uses import Use, Uses, find_uses, record_uses, trained_on_withdrawn


def _record(store: Store, number: int, uses: Uses, federation: str = "fed") -> None:
    with store.connect() as connection:
        record_uses(connection, federation, number, uses)


def test_rounds_that_follow_each_other_are_one_row(store: Store) -> None:
    for number, part in ((1, "trained"), (2, "trained"), (3, "replayed"), (5, "replayed")):
        _record(store, number, {part: ["a"], "scored": ["b"]})
    assert find_uses(store, "a") == [
        Use("fed", "a", "trained", 1, 2),
        Use("fed", "a", "replayed", 3, 3),
        Use("fed", "a", "replayed", 5, 5),
    ]
    assert find_uses(store, "b") == [
        Use("fed", "b", "scored", 1, 3),
        Use("fed", "b", "scored", 5, 5),
    ]
    assert find_uses(store, "c") == []


def test_a_round_done_again_counts_as_it_was_done_last(store: Store) -> None:
    for number in (1, 2, 3):
        _record(store, number, {"trained": ["a", "b"]})
    _record(store, 2, {"trained": ["a"]})
    assert find_uses(store, "a") == [Use("fed", "a", "trained", 1, 2)]
    assert find_uses(store, "b") == [Use("fed", "b", "trained", 1, 1)]


def test_what_a_volume_did_for_one_task_is_found_by_its_id_for_another(store: Store) -> None:
    volume = "scan-0123456789abcdef"
    _record(store, 1, {"trained": [volume, "scan-0123456789abcdee"]})
    _record(store, 2, {"trained": [f"{volume}-second"]})
    both = [Use("fed", volume, "trained", 1, 1), Use("fed", f"{volume}-second", "trained", 2, 2)]
    assert find_uses(store, volume) == find_uses(store, f"{volume}-third") == both
    # It came back for the second task alone, under the volume's own id, and went again.
    with store.connect() as connection:
        connection.execute("INSERT INTO withdrawn VALUES (?, 'now', NULL)", (volume,))
        known = [trained_on_withdrawn(connection, "fed", number) for number in (1, 2, 3)]
    assert known == [True, True, False]


def test_federations_do_not_mix(store: Store) -> None:
    _record(store, 1, {"trained": ["a"]}, "one")
    _record(store, 2, {"trained": ["a"]}, "two")
    _record(store, 1, {}, "two")
    assert find_uses(store, "a") == [Use("one", "a", "trained", 1, 1)]


def test_a_round_that_trained_on_a_withdrawn_scan_is_known(store: Store) -> None:
    _record(store, 1, {"trained": ["a"], "scored": ["b"]})
    _record(store, 2, {"trained": ["a"], "scored": ["b"]})
    with store.connect() as connection:
        for scan_id, number, expected in (("b", 2, False), ("a", 2, True), ("a", 3, False)):
            connection.execute(
                "INSERT OR IGNORE INTO withdrawn VALUES (?, 'now', NULL)", (scan_id,)
            )
            assert trained_on_withdrawn(connection, "fed", number) == expected
        assert not trained_on_withdrawn(connection, "another", 2)
