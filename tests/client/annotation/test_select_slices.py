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
    refs = select_slices(scans, axis, choice, seed)
    assert [ref.scan_id for ref in refs] == [scan_id for scan_id, _ in scans]
    assert {ref.axis for ref in refs} <= {axis}
    assert all(0 <= ref.index < shape[axis] for ref, (_, shape) in zip(refs, scans, strict=True))


@given(count=st.integers(2, 60), seed=st.integers(0, 2**32))
def test_spread_leaves_no_large_gap_however_many_scans_came(count: int, seed: int) -> None:
    refs = select_slices([(str(n), (1, 1, 10_000)) for n in range(count)], 2, "spread", seed)
    positions = np.sort([ref.index / 10_000 for ref in refs])
    gaps = np.diff([*positions, positions[0] + 1])
    # The largest gap of golden section steps is at most (1 + 2 / sqrt 5) / count = 1.894 / count.
    assert gaps.max() < 1.895 / count + 0.001


@given(count=st.integers(1, 12), seed=st.integers(0, 2**32))
def test_spread_asks_the_same_whoever_comes_later(count: int, seed: int) -> None:
    scans = cohort(*[40] * 12)
    assert select_slices(scans, 2, "spread", seed)[:count] == select_slices(
        scans[:count], 2, "spread", seed
    )


def test_spread_goes_by_share_where_lengths_differ() -> None:
    short = select_slices(cohort(10, 10, 10), 2, "spread", 4)
    long = select_slices(cohort(100, 100, 100), 2, "spread", 4)
    assert [ref.index for ref in short] == [ref.index // 10 for ref in long]


def test_another_seed_starts_elsewhere() -> None:
    firsts = {select_slices(cohort(40), 2, "spread", seed)[0].index // 10 for seed in range(40)}
    assert firsts == {0, 1, 2, 3}


@pytest.mark.parametrize(("length", "middle"), [(1, 0), (2, 1), (9, 4), (10, 5)])
def test_centre_is_the_middle(length: int, middle: int) -> None:
    refs = select_slices(cohort(length, axis=0), 0, "centre", 0)
    assert refs[0].index == middle


@pytest.mark.parametrize("choice", CHOICES)
def test_a_volume_of_one_slice_is_asked_for_it(choice: SliceChoice) -> None:
    refs = select_slices(cohort(1, 1, 1), 2, choice, 3)
    assert [ref.index for ref in refs] == [0, 0, 0]


@pytest.mark.parametrize("choice", CHOICES)
def test_nothing_is_asked_of_an_empty_cohort(choice: SliceChoice) -> None:
    assert select_slices([], 1, choice, 0) == []


@pytest.mark.parametrize("choice", ["random", "spread"])
def test_the_generator_decides(choice: SliceChoice) -> None:
    scans = cohort(50, 60, 70)
    first, again, other = (select_slices(scans, 2, choice, seed) for seed in (5, 5, 6))
    assert first == again
    assert first != other
