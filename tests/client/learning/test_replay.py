"""Laws of the memory."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.learning.replay import group_of, offer
from client.store.rounds import Memory, Remembered

streams = st.lists(st.sampled_from("abcd"), max_size=60)


def newcomers(groups: str | list[str], first: int = 0) -> list[Remembered]:
    """One scan of each letter's group, in order, none twice."""
    return [
        Remembered(f"scan{number}", "task", group) for number, group in enumerate(groups, first)
    ]


def offered(groups: str | list[str], budget: int, seed: int = 0) -> Memory:
    return offer(Memory(), newcomers(groups), budget=budget, rng=np.random.default_rng(seed))


def sizes(memory: Memory) -> Counter[str]:
    return Counter(entry.group for entry in memory.entries)


@given(groups=streams, budget=st.integers(0, 12), seed=st.integers(0, 2**32))
def test_the_memory_is_full_and_never_over_budget(
    groups: list[str], budget: int, seed: int
) -> None:
    memory = offered(groups, budget, seed)
    assert len(memory.entries) == min(budget, len(groups))
    assert len({entry.scan_id for entry in memory.entries}) == len(memory.entries)
    assert set(memory.entries) <= set(newcomers(groups))
    assert dict(memory.seen) == Counter(groups)


@given(groups=streams, budget=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_the_largest_group_is_at_most_one_ahead_of_any_that_lost_a_scan(
    groups: list[str], budget: int, seed: int
) -> None:
    # A group holds all that was ever offered of it, or is as large as the largest but one.
    memory = offered(groups, budget, seed)
    held, seen = sizes(memory), Counter(groups)
    largest = max(held.values(), default=0)
    assert all(held[group] >= min(seen[group], largest - 1) for group in seen)


def test_a_rare_group_is_kept_whole_beside_a_flood() -> None:
    for seed in range(20):
        assert sizes(offered("a" * 200 + "bb" + "a" * 200, 10, seed)) == {"a": 8, "b": 2}


def test_groups_share_the_memory_evenly() -> None:
    assert sizes(offered("a" * 50 + "b" * 50 + "c" * 50, 9)) == {"a": 3, "b": 3, "c": 3}


def test_every_scan_of_one_group_has_the_same_chance_to_stay() -> None:
    draws, kept = 4000, Counter[str]()
    rng = np.random.default_rng(1)
    for _ in range(draws):
        memory = offer(Memory(), newcomers("a" * 12), budget=4, rng=rng)
        kept.update(entry.scan_id for entry in memory.entries)
    # Each stays with chance 4/12; five standard deviations of a binomial of 4000 draws are 149.
    assert all(abs(kept[f"scan{number}"] - draws / 3) < 149 for number in range(12))


def test_without_budget_nothing_is_kept_but_all_is_counted() -> None:
    memory = offered("aab", 0)
    assert memory.entries == ()
    assert memory.seen == {"a": 2, "b": 1}


def test_a_scan_offered_twice_is_kept_once() -> None:
    rng = np.random.default_rng(0)
    once = offer(Memory(), newcomers("abc"), budget=5, rng=rng)
    assert offer(once, newcomers("abc"), budget=5, rng=rng) == once


def test_a_smaller_budget_never_lets_the_memory_grow() -> None:
    rng = np.random.default_rng(0)
    memory = offer(Memory(), newcomers("aaabbb"), budget=6, rng=rng)
    shrunk = offer(memory, newcomers("cc", first=6), budget=4, rng=rng)
    assert len(shrunk.entries) <= len(memory.entries)


def test_the_generator_decides() -> None:
    groups = "ab" * 40
    assert offered(groups, 6, seed=1) == offered(groups, 6, seed=1)
    assert offered(groups, 6, seed=1) != offered(groups, 6, seed=2)


def test_the_memory_that_was_given_is_left_as_it_was() -> None:
    before = offered("aab", 3)
    entries, seen = before.entries, dict(before.seen)
    offer(before, newcomers("bbbb", first=3), budget=3, rng=np.random.default_rng(0))
    assert before.entries == entries
    assert before.seen == seen


@pytest.mark.parametrize(
    ("areas", "group"),
    [
        ({1: 50, 2: 3}, "liver/2"),
        ({1: 3, 2: 50}, "liver/1"),
        ({1: 7, 2: 7}, "liver/1"),
        ({1: 7, 2: 0}, "liver/1"),
        ({}, "liver/0"),
        ({1: 0}, "liver/0"),
    ],
)
def test_a_scan_belongs_to_its_rarest_structure(areas: dict[int, int], group: str) -> None:
    assert group_of("liver", areas) == group
