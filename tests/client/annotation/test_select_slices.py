"""Which slices are asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from client.annotation.select_slices import SliceChoice, select_slices

CHOICES: tuple[SliceChoice, ...] = ("centre", "random", "spread")
shapes = st.lists(st.tuples(*[st.integers(1, 60)] * 3), max_size=12)


def cohort(*lengths: int, axis: int = 2) -> list[tuple[str, tuple[int, int, int]]]:
    """Scans a, b, c, ... of the given lengths along the axis; odd lengths elsewhere."""
    scans = []
    for name, length in zip("abcdefghijklmnop", lengths, strict=False):
        shape = [3, 5, 7]
        shape[axis] = length
        scans.append((name, (shape[0], shape[1], shape[2])))
    return scans


@given(
    shapes=shapes,
    axis=st.integers(0, 2),
    choice=st.sampled_from(CHOICES),
    seed=st.integers(0, 2**32),
)
def test_every_scan_gets_one_valid_slice_in_order(
    shapes: list[tuple[int, int, int]], axis: int, choice: SliceChoice, seed: int
) -> None:
    scans = [(f"scan{number}", shape) for number, shape in enumerate(shapes)]
    refs = select_slices(scans, axis, choice, np.random.default_rng(seed))
    assert [ref.scan_id for ref in refs] == [scan_id for scan_id, _ in scans]
    assert {ref.axis for ref in refs} <= {axis}
    assert all(0 <= ref.index < shape[axis] for ref, (_, shape) in zip(refs, scans, strict=True))


@given(count=st.integers(1, 14), factor=st.integers(1, 9), seed=st.integers(0, 2**32))
def test_spread_gives_each_part_of_the_extent_to_one_scan(
    count: int, factor: int, seed: int
) -> None:
    # Volumes of count * factor slices have parts of exactly `factor` slices.
    scans = cohort(*[count * factor] * count)
    refs = select_slices(scans, 2, "spread", np.random.default_rng(seed))
    assert sorted(ref.index // factor for ref in refs) == list(range(count))


def test_spread_counts_parts_by_share_where_lengths_differ() -> None:
    # With two scans one shows its first half and the other its second, however long they are.
    for seed in range(20):
        short, long = select_slices(cohort(10, 100), 2, "spread", np.random.default_rng(seed))
        assert (short.index < 5) != (long.index < 50)


def test_spread_shuffles_who_shows_which_part() -> None:
    firsts = {
        select_slices(cohort(8, 8, 8, 8), 2, "spread", np.random.default_rng(seed))[0].index // 2
        for seed in range(40)
    }
    assert firsts == {0, 1, 2, 3}


@pytest.mark.parametrize(("length", "middle"), [(1, 0), (2, 1), (9, 4), (10, 5)])
def test_centre_is_the_middle(length: int, middle: int) -> None:
    refs = select_slices(cohort(length, axis=0), 0, "centre", np.random.default_rng(0))
    assert refs[0].index == middle


@pytest.mark.parametrize("choice", CHOICES)
def test_a_volume_of_one_slice_is_asked_for_it(choice: SliceChoice) -> None:
    refs = select_slices(cohort(1, 1, 1), 2, choice, np.random.default_rng(3))
    assert [ref.index for ref in refs] == [0, 0, 0]


@pytest.mark.parametrize("choice", CHOICES)
def test_nothing_is_asked_of_an_empty_cohort(choice: SliceChoice) -> None:
    assert select_slices([], 1, choice, np.random.default_rng(0)) == []


@pytest.mark.parametrize("choice", ["random", "spread"])
def test_the_generator_decides(choice: SliceChoice) -> None:
    scans = cohort(50, 60, 70)
    first, again, other = (
        select_slices(scans, 2, choice, np.random.default_rng(seed)) for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other
