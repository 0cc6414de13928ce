"""Streams depend on their seed and path, and on nothing else."""

import hashlib

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from common.random_streams import generator, stream_seed

PARTS = st.lists(st.integers(0, 99) | st.sampled_from(["north", "south", "round"]), max_size=3)


def test_the_same_path_gives_the_same_numbers() -> None:
    first, second = generator(7, "north", 3), generator(7, "north", 3)
    np.testing.assert_array_equal(first.random(5), second.random(5))


def test_the_seed_is_the_hash_of_the_path() -> None:
    # Written out, so that a change that would alter every federation's numbers does not go by.
    digest = hashlib.sha256(b"7/north/3").digest()
    assert stream_seed(7, "north", 3) == int.from_bytes(digest[:8], "big") // 2


def test_other_paths_and_seeds_give_other_numbers() -> None:
    paths = [(7,), (8,), (7, "north"), (7, "south"), (7, "north", 1), (7, "north", 2), (7, 1, 2)]
    draws = {generator(*path).random() for path in paths}
    assert len(draws) == len(paths)


def test_streams_do_not_depend_on_the_order_of_calls() -> None:
    forwards = [generator(1, "north", number).random() for number in range(4)]
    backwards = [generator(1, "north", number).random() for number in reversed(range(4))]
    assert forwards == backwards[::-1]


def test_streams_leave_numpys_global_generator_alone() -> None:
    before = np.random.get_state()[1].copy()
    generator(1, "north").random(100)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


@given(seed=st.integers(0, 2**63 - 1), path=PARTS)
def test_seeds_fit_into_63_bits(seed: int, path: list[str | int]) -> None:
    assert 0 <= stream_seed(seed, *path) < 2**63
