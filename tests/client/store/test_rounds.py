"""State and reply of a round are kept together or not at all."""

from dataclasses import replace

import pytest

from client.store.rounds import (
    HospitalState,
    Memory,
    Remembered,
    commit_round,
    find_reply,
    latest_round,
    load_state,
)
from client.store.store import Store


def _state(scan_ids: list[str], number: int, federation: str = "fed") -> HospitalState:
    entries = tuple(Remembered(scan_id, "first", f"first/{number}") for scan_id in scan_ids[::-1])
    memory = Memory(entries, {f"first/{number}": len(entries)})
    return HospitalState(federation, number, {"first": 0}, memory)


def test_before_the_first_round_there_is_nothing(store: Store) -> None:
    assert load_state(store, "fed", 0) == HospitalState("fed", 0)
    assert latest_round(store, "fed") == 0
    assert find_reply(store, "fed", 1, "digest") is None


def test_a_committed_round_comes_back_in_order(store: Store, scan_ids: list[str]) -> None:
    state = _state(scan_ids, 1)
    commit_round(store, state, "digest", b"reply")
    assert load_state(store, "fed", 1) == state
    assert find_reply(store, "fed", 1, "digest") == b"reply"
    assert find_reply(store, "fed", 1, "another") is None
    assert latest_round(store, "fed") == 1


def test_federations_do_not_mix(store: Store, scan_ids: list[str]) -> None:
    for name in ("one", "two"):
        commit_round(store, _state(scan_ids, 1, name), "digest", name.encode())
    assert find_reply(store, "one", 1, "digest") == b"one"
    commit_round(store, _state(scan_ids, 2, "two"), "digest", b"later")
    assert (latest_round(store, "one"), latest_round(store, "two")) == (1, 2)


def test_a_missed_round_starts_from_the_last_one_taken_part_in(
    store: Store, scan_ids: list[str]
) -> None:
    commit_round(store, _state(scan_ids, 2), "digest", b"reply")
    assert load_state(store, "fed", 5) == _state(scan_ids, 2)
    assert load_state(store, "fed", 1) == HospitalState("fed", 1)


def test_a_round_committed_again_drops_what_came_after(store: Store, scan_ids: list[str]) -> None:
    for number in (1, 2, 3):
        commit_round(store, _state(scan_ids, number), f"digest {number}", b"old")
    again = replace(_state(scan_ids[:1], 2), tasks_trained={})
    commit_round(store, again, "another", b"new")
    assert latest_round(store, "fed") == 2
    assert load_state(store, "fed", 2) == load_state(store, "fed", 9) == again
    assert find_reply(store, "fed", 2, "another") == b"new"
    assert find_reply(store, "fed", 2, "digest 2") is None
    assert find_reply(store, "fed", 3, "digest 3") is None


def test_only_the_last_two_replies_are_kept(store: Store, scan_ids: list[str]) -> None:
    for number in range(1, 5):
        commit_round(store, _state(scan_ids, number), "digest", b"reply")
    found = [find_reply(store, "fed", number, "digest") for number in range(1, 5)]
    assert found == [None, None, b"reply", b"reply"]
    assert len(list((store.folder / "rounds" / "fed").iterdir())) == 2


def test_a_commit_that_fails_leaves_the_round_as_it_was(store: Store, scan_ids: list[str]) -> None:
    """The reply's file comes before the rows, so it must not take the committed one's place."""
    state = _state(scan_ids, 1)
    commit_round(store, state, "digest", b"committed")
    broken = replace(state, memory=Memory((Remembered("no such scan", "first", "g"),)))
    with pytest.raises(Exception, match="FOREIGN KEY"):
        commit_round(store, broken, "another", b"never")
    assert load_state(store, "fed", 1) == state
    assert find_reply(store, "fed", 1, "digest") == b"committed"
    assert find_reply(store, "fed", 1, "another") is None


def test_what_a_killed_process_left_behind_does_no_harm(store: Store, scan_ids: list[str]) -> None:
    commit_round(store, _state(scan_ids, 1), "digest", b"reply")
    left = store.folder / "rounds" / "fed" / ".unfinished-abc.reply"
    left.write_bytes(b"half")
    commit_round(store, _state(scan_ids, 2), "digest", b"reply")
    assert not left.exists()
    assert find_reply(store, "fed", 1, "digest") == b"reply"
