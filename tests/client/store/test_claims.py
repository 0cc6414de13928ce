"""Claims: one at a time, renewed by their holder, over by themselves."""

import pytest

from client.store import claims
from client.store.claims import CLAIM_S, ClaimedError, claim_scan, find_claim, release_scan
from client.store.store import Store


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock that claims go by."""
    clock = Clock()
    monkeypatch.setattr(claims, "time", clock)
    return clock


def test_a_claim_keeps_others_out_until_it_expires(
    store: Store, scan_ids: list[str], clock: Clock
) -> None:
    scan_id = scan_ids[0]
    assert find_claim(store, scan_id) is None
    assert claim_scan(store, scan_id, "anna").left_s == CLAIM_S
    clock.now += CLAIM_S - 60
    with pytest.raises(ClaimedError, match="anna has this one for another 1 min") as caught:
        claim_scan(store, scan_id, "ben")
    assert (caught.value.claim.annotator, caught.value.claim.left_s) == ("anna", 60)
    assert find_claim(store, scan_ids[1]) is None, "of this scan alone"
    clock.now += 60
    assert find_claim(store, scan_id) is None
    assert claim_scan(store, scan_id, "ben").annotator == "ben"


def test_its_holder_renews_it(store: Store, scan_ids: list[str], clock: Clock) -> None:
    claim_scan(store, scan_ids[0], "anna")
    clock.now += CLAIM_S / 2
    claim_scan(store, scan_ids[0], "anna")
    clock.now += CLAIM_S * 0.75
    found = find_claim(store, scan_ids[0])
    assert found is not None
    assert found.left_s == CLAIM_S / 4


def test_only_its_holder_releases_it(store: Store, scan_ids: list[str]) -> None:
    claim_scan(store, scan_ids[0], "anna")
    release_scan(store, scan_ids[0], "ben")
    found = find_claim(store, scan_ids[0])
    assert found is not None
    assert found.annotator == "anna"
    release_scan(store, scan_ids[0], "anna")
    assert find_claim(store, scan_ids[0]) is None
    release_scan(store, scan_ids[0], "anna")
