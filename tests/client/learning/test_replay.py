"""Laws of the memory, whichever policy says who stays."""

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.learning.replay import (
    Budget,
    WhoGoes,
    balanced,
    group_of,
    hard,
    offer,
    reservoir,
)
from client.store.rounds import Memory, Remembered
from common.random_streams import generator

streams = st.lists(st.sampled_from("abcd"), max_size=60)
MakePolicy = Callable[[list[Remembered], int], WhoGoes]


def newcomers(groups: str | list[str], first: int = 0) -> list[Remembered]:
    """One scan of each letter's task and group, in order, none twice."""
    return [
        Remembered(f"scan{number}", f"task-{group}", group)
        for number, group in enumerate(groups, first)
    ]


def by_lot(scans: list[Remembered], seed: int) -> WhoGoes:
    return reservoir({one.scan_id: generator(seed, "lot", one.scan_id).random() for one in scans})


def by_group(_: list[Remembered], seed: int) -> WhoGoes:
    return balanced(np.random.default_rng(seed))


def by_hardness(scans: list[Remembered], seed: int) -> WhoGoes:
    rng = np.random.default_rng(seed)
    return hard({one.scan_id: float(rng.random()) for one in scans})


POLICIES = [by_lot, by_group, by_hardness]


def offered(groups: str | list[str], budget: int, seed: int = 0) -> Memory:
    """What the balanced policy keeps of scans of these groups."""
    policy = balanced(np.random.default_rng(seed))
    return offer(Memory(), newcomers(groups), budget=Budget(budget), policy=policy)


def sizes(memory: Memory) -> Counter[str]:
    return Counter(entry.group for entry in memory.entries)


def ids(memory: Memory) -> set[str]:
    return {entry.scan_id for entry in memory.entries}


# Every policy -----------------------------------------------------------------------------------


@pytest.mark.parametrize("make", POLICIES)
@given(groups=streams, budget=st.integers(0, 12), seed=st.integers(0, 2**32))
def test_the_memory_is_full_and_never_over_budget(
    make: MakePolicy, groups: list[str], budget: int, seed: int
) -> None:
    scans = newcomers(groups)
    memory = offer(Memory(), scans, budget=Budget(budget), policy=make(scans, seed))
    assert len(memory.entries) == min(budget, len(groups))
    assert len(ids(memory)) == len(memory.entries)
    assert set(memory.entries) <= set(scans)
    assert dict(memory.seen) == Counter(groups)
    assert memory.offered == {one.scan_id for one in scans}


@pytest.mark.parametrize("make", POLICIES)
@given(
    large=st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), max_size=30),
    num_bytes=st.integers(0, 20),
    seed=st.integers(0, 2**32),
)
def test_bytes_are_never_over_budget_either(
    make: MakePolicy, large: list[tuple[str, int]], num_bytes: int, seed: int
) -> None:
    scans = newcomers([group for group, _ in large])
    bytes_of = {one.scan_id: size for one, (_, size) in zip(scans, large, strict=True)}
    policy, memory = make(scans, seed), Memory()
    for one in scans:
        budget = Budget(5, num_bytes, bytes_of)
        memory = offer(memory, [one], budget=budget, policy=policy)
        assert len(memory.entries) <= 5
        assert sum(bytes_of[entry.scan_id] for entry in memory.entries) <= num_bytes
    fit = [one for one in scans if bytes_of[one.scan_id] <= num_bytes]
    assert bool(memory.entries) == bool(fit)


@pytest.mark.parametrize("make", POLICIES)
def test_a_scan_that_is_larger_than_the_budget_drives_nobody_out(make: MakePolicy) -> None:
    scans = newcomers("aaab")
    bytes_of = {"scan0": 3, "scan1": 3, "scan2": 3, "scan3": 10}
    memory = offer(Memory(), scans, budget=Budget(9, 9, bytes_of), policy=make(scans, 0))
    assert ids(memory) == {"scan0", "scan1", "scan2"}
    assert "scan3" in memory.offered


@pytest.mark.parametrize("make", POLICIES)
def test_a_scan_has_one_chance(make: MakePolicy) -> None:
    scans = newcomers("aabbab")
    policy = make(scans, 3)
    once = offer(Memory(), scans, budget=Budget(3), policy=policy)
    assert len(once.entries) == 3
    assert offer(once, scans, budget=Budget(3), policy=policy) == once


@pytest.mark.parametrize("make", POLICIES)
def test_a_smaller_budget_cuts_the_memory_without_any_newcomer(make: MakePolicy) -> None:
    scans = newcomers("aaabbb")
    policy = make(scans, 0)
    memory = offer(Memory(), scans, budget=Budget(6), policy=policy)
    shrunk = offer(memory, [], budget=Budget(4), policy=policy)
    assert len(shrunk.entries) == 4
    assert ids(shrunk) < ids(memory)
    assert (shrunk.seen, shrunk.offered) == (memory.seen, memory.offered)


@pytest.mark.parametrize("make", POLICIES)
def test_the_memory_that_was_given_is_left_as_it_was(make: MakePolicy) -> None:
    scans = newcomers("aabbbbb")
    policy = make(scans, 0)
    before = offer(Memory(), scans[:3], budget=Budget(3), policy=policy)
    entries, seen = before.entries, dict(before.seen)
    offer(before, scans[3:], budget=Budget(3), policy=policy)
    assert before.entries == entries
    assert before.seen == seen


@pytest.mark.parametrize("make", POLICIES)
def test_the_seed_decides(make: MakePolicy) -> None:
    scans = newcomers("ab" * 40)

    def kept(seed: int) -> Memory:
        return offer(Memory(), scans, budget=Budget(6), policy=make(scans, seed))

    assert kept(1) == kept(1)
    assert kept(1) != kept(2)


# Reservoir --------------------------------------------------------------------------------------


def test_by_lot_every_scan_has_the_same_chance_whatever_its_group() -> None:
    draws, kept = 4000, Counter[str]()
    scans = newcomers("a" * 9 + "bbc")
    for seed in range(draws):
        kept.update(ids(offer(Memory(), scans, budget=Budget(4), policy=by_lot(scans, seed))))
    # Each stays with chance 4/12; five standard deviations of a binomial of 4000 draws are 149.
    assert all(abs(kept[f"scan{number}"] - draws / 3) < 149 for number in range(12))


@given(groups=streams, budget=st.integers(0, 12), seed=st.integers(0, 2**32))
def test_by_lot_the_order_of_arrival_makes_no_difference(
    groups: list[str], budget: int, seed: int
) -> None:
    scans = newcomers(groups)
    policy = by_lot(scans, seed)
    one = offer(Memory(), scans, budget=Budget(budget), policy=policy)
    other = offer(Memory(), scans[::-1], budget=Budget(budget), policy=policy)
    assert set(one.entries) == set(other.entries)


# Hard -------------------------------------------------------------------------------------------


@given(hardness=st.lists(st.floats(0, 1), max_size=30, unique=True), budget=st.integers(0, 12))
def test_of_one_task_the_hardest_stay(hardness: list[float], budget: int) -> None:
    scans = newcomers("a" * len(hardness))
    found = {one.scan_id: value for one, value in zip(scans, hardness, strict=True)}
    memory = offer(Memory(), scans, budget=Budget(budget), policy=hard(found))
    expected = sorted(found, key=lambda scan_id: found[scan_id])[max(len(found) - budget, 0) :]
    assert ids(memory) == set(expected)


@given(groups=streams, budget=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_tasks_share_the_memory_of_the_hardest(groups: list[str], budget: int, seed: int) -> None:
    scans = newcomers(groups)
    memory = offer(Memory(), scans, budget=Budget(budget), policy=by_hardness(scans, seed))
    held, seen = sizes(memory), Counter(groups)
    largest = max(held.values(), default=0)
    assert all(held[group] >= min(seen[group], largest - 1) for group in seen)


def test_a_task_that_nobody_has_learnt_yet_leaves_the_old_ones_their_hardest() -> None:
    old, new = newcomers("aaaa"), newcomers("bbbb", first=4)
    hardness = {"scan0": 0.1, "scan1": 0.4, "scan2": 0.2, "scan3": 0.3}
    memory = offer(Memory(), old, budget=Budget(4), policy=hard(hardness))
    everything = {**hardness, **dict.fromkeys(("scan4", "scan5", "scan6", "scan7"), 1.0)}
    memory = offer(memory, new, budget=Budget(4), policy=hard(everything))
    assert ids(memory) >= {"scan1", "scan3"}
    assert sizes(memory) == {"a": 2, "b": 2}


def test_what_is_remembered_is_judged_anew() -> None:
    scans = newcomers("aab")
    before = offer(Memory(), scans[:2], budget=Budget(2), policy=hard({"scan0": 0.9, "scan1": 0.1}))
    now = {"scan0": 0.2, "scan1": 0.8, "scan2": 0.5}
    assert ids(offer(before, scans[2:], budget=Budget(2), policy=hard(now))) == {"scan1", "scan2"}


# Balanced ---------------------------------------------------------------------------------------


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
    policy = balanced(np.random.default_rng(1))
    for _ in range(draws):
        kept.update(ids(offer(Memory(), newcomers("a" * 12), budget=Budget(4), policy=policy)))
    # Each stays with chance 4/12; five standard deviations of a binomial of 4000 draws are 149.
    assert all(abs(kept[f"scan{number}"] - draws / 3) < 149 for number in range(12))


def test_the_draws_are_those_of_the_memories_that_hospitals_have() -> None:
    # What the policy kept of this stream before there were others; a federation that goes on with
    # another draw would not be the uninterrupted one.
    memory = offered("aabacabbaacab", 4, seed=7)
    kept = [entry.scan_id for entry in memory.entries]
    assert kept == ["scan2", "scan4", "scan9", "scan12"]


def test_without_budget_nothing_is_kept_but_all_is_counted() -> None:
    memory = offered("aab", 0)
    assert memory.entries == ()
    assert memory.seen == {"a": 2, "b": 1}


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
