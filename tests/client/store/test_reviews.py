"""Verdicts: all kept, the last one counts."""

from client.store.reviews import flagged_scans, latest_review, save_review
from client.store.store import Store


def test_the_last_verdict_counts_and_all_are_kept(store: Store, scan_ids: list[str]) -> None:
    one, other = scan_ids[:2]
    assert latest_review(store, one) is None
    assert save_review(store, one, "accepted", "anna", "") == 1
    assert save_review(store, one, "flagged", "ben", "the head is cut off") == 2
    assert save_review(store, other, "accepted", "ben", "") == 1
    last = latest_review(store, one)
    assert last is not None
    assert (last.number, last.verdict, last.annotator, last.reason) == (
        2,
        "flagged",
        "ben",
        "the head is cut off",
    )
    with store.read() as connection:
        assert connection.execute("SELECT COUNT(*) FROM reviews").fetchone()[0] == 3


def test_flagged_is_what_was_flagged_last(store: Store, scan_ids: list[str]) -> None:
    one, other = scan_ids[:2]
    assert flagged_scans(store) == set()
    save_review(store, one, "flagged", "ben", "unsharp")
    save_review(store, other, "flagged", "ben", "unsharp")
    assert flagged_scans(store) == {one, other}
    save_review(store, other, "accepted", "anna", "")
    assert flagged_scans(store) == {one}
