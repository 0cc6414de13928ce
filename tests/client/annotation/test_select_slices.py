"""Which slices are asked for."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from client.annotation.select_slices import (
    CENTRAL_SHARE,
    EMPTY_RATE,
    Painted,
    select_slices,
    slice_in_doubt,
    where_slices_show,
)
from common.plan import SliceChoice

ONE_SLICE: tuple[SliceChoice, ...] = (
    "centre",
    "random",
    "spread",
    "representative",
    "cohort",
    "doubt",
)
shapes = st.tuples(*[st.integers(1, 20)] * 3)
slices = st.builds(Painted, position=st.floats(0, 1), shows=st.booleans())
paintings = st.lists(slices, max_size=30)


def volume(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)


def flat(length: int, axis: int = 2) -> np.ndarray:
    """A volume of that length along the axis, odd lengths elsewhere."""
    shape = [3, 5, 7]
    shape[axis] = length
    return np.zeros((1, *shape), dtype=np.float32)


def index_of(
    choice: SliceChoice,
    place: int = 0,
    *,
    length: int = 40,
    seed: int = 0,
    painted: Sequence[Painted] = (),
) -> int:
    """The one slice that is asked for along the last axis."""
    (ref,) = select_slices(
        flat(length), (f"scan{place}", 2), choice, place=place, seed=seed, painted=painted
    )
    return ref.index


# All choices ------------------------------------------------------------------------------------


@given(
    shape=shapes,
    axis=st.integers(0, 2),
    choice=st.sampled_from(ONE_SLICE),
    place=st.integers(0, 100),
    seed=st.integers(0, 2**32),
    painted=paintings,
)
@settings(deadline=None)
def test_a_scan_gets_one_slice_of_its_own(
    shape: tuple[int, int, int],
    axis: int,
    choice: SliceChoice,
    place: int,
    seed: int,
    painted: list[Painted],
) -> None:
    image = volume(*shape)
    (ref,) = select_slices(image, ("scan", axis), choice, place=place, seed=seed, painted=painted)
    assert (ref.scan_id, ref.axis) == ("scan", axis)
    assert 0 <= ref.index < shape[axis]
    again = select_slices(image, ("scan", axis), choice, place=place, seed=seed, painted=painted)
    assert again == [ref]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_asks_for_all_slices_in_order(axis: int) -> None:
    refs = select_slices(flat(6, axis), ("scan", axis), "every", place=3, seed=0)
    assert [ref.index for ref in refs] == [0, 1, 2, 3, 4, 5]
    assert {(ref.scan_id, ref.axis) for ref in refs} == {("scan", axis)}


@pytest.mark.parametrize("choice", [*ONE_SLICE, "every"])
def test_a_volume_of_one_slice_is_asked_for_it(choice: SliceChoice) -> None:
    assert index_of(choice, length=1, seed=3) == 0


# Centre, random, spread -------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "middle"), [(1, 0), (2, 1), (9, 4), (10, 5)])
def test_centre_is_the_middle(length: int, middle: int) -> None:
    (ref,) = select_slices(flat(length, 0), ("scan", 0), "centre", place=5, seed=1)
    assert ref.index == middle


@given(count=st.integers(2, 60), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_spread_leaves_no_large_gap_however_many_scans_came(count: int, seed: int) -> None:
    indexes = [index_of("spread", place, length=10_000, seed=seed) for place in range(count)]
    positions = np.sort(np.array(indexes) / 10_000)
    gaps = np.diff([*positions, positions[0] + 1])
    # The largest gap of golden section steps is at most (1 + 2 / sqrt 5) / count = 1.894 / count.
    assert gaps.max() < 1.895 / count + 0.001


def test_spread_goes_by_share_where_lengths_differ() -> None:
    short = [index_of("spread", place, length=10, seed=4) for place in range(3)]
    long = [index_of("spread", place, length=100, seed=4) for place in range(3)]
    assert short == [index // 10 for index in long]


def test_another_seed_starts_elsewhere() -> None:
    assert {index_of("spread", seed=seed) // 10 for seed in range(40)} == {0, 1, 2, 3}


@pytest.mark.parametrize("choice", ["random", "spread", "cohort"])
def test_the_seed_decides(choice: SliceChoice) -> None:
    first, again, other = (
        [index_of(choice, place, length=60, seed=seed) for place in range(3)] for seed in (5, 5, 6)
    )
    assert first == again
    assert first != other


def test_random_depends_on_the_scan_and_not_on_its_place() -> None:
    image = flat(60)
    drawn = [
        select_slices(image, (name, 2), "random", place=place, seed=1)[0].index
        for name, place in (("a", 0), ("a", 7), ("b", 0))
    ]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


@pytest.mark.parametrize("choice", ["centre", "random", "spread", "representative"])
def test_only_the_cohort_looks_at_what_was_painted(choice: SliceChoice) -> None:
    painted = [Painted(0.9, True)] * 20
    assert index_of(choice, 2, painted=painted) == index_of(choice, 2)


# Cohort -----------------------------------------------------------------------------------------


@given(share=st.floats(0, 1))
@settings(deadline=None)
def test_with_nothing_painted_a_share_is_its_own_position(share: float) -> None:
    assert where_slices_show(share, []) == pytest.approx(share, abs=1e-9)


@pytest.mark.parametrize("place", range(8))
def test_with_nothing_painted_the_cohort_asks_as_spread_does(place: int) -> None:
    assert index_of("cohort", place, seed=3) == index_of("spread", place, seed=3)


def painted_throughout(shows_above: float) -> list[Painted]:
    """A hundred slices over the whole extent that show something above a position only."""
    positions = (np.arange(100) + 0.5) / 100
    return [Painted(float(position), bool(position > shows_above)) for position in positions]


@pytest.mark.parametrize("shows", [True, False])
def test_where_all_are_alike_the_density_is_even(shows: bool) -> None:
    alike = painted_throughout(-1 if shows else 2)
    for share in (0.1, 0.25, 0.5, 0.9):
        assert where_slices_show(share, alike) == pytest.approx(share, abs=0.01)


def test_by_hand_a_half_that_was_always_empty_is_asked_a_tenth_as_often() -> None:
    assert EMPTY_RATE == 0.1
    half = painted_throughout(0.5)
    # Densities 0.1 and 1 on either half: 1 / 11 of all lie below the middle, save that positions
    # within a kernel's width of it know of both sides.
    for share, position in ((0.05, 0.05 * 11 / 2), (1 / 11, 0.5), (0.6, 1 - 0.4 * 1.1 / 2)):
        assert where_slices_show(share, half) == pytest.approx(position, abs=0.04)
    asked = [where_slices_show(share, half) for share in (np.arange(200) + 0.5) / 200]
    assert np.mean(np.array(asked) > 0.5) == pytest.approx(10 / 11, abs=0.03)


def test_one_slice_tells_of_its_neighbourhood_only() -> None:
    # One slice that shows something at 0.75. Far from it the rate is the prior, 0.125 / 0.25; at it
    # the rate is (0.125 + 1) / (0.25 + 1) = 0.9: denser by 1.8.
    one = [Painted(0.75, True)]

    def density(position: float) -> float:
        near = [share for share in np.linspace(0, 1, 4001)
                if abs(where_slices_show(float(share), one) - position) < 0.01]  # fmt: skip
        return len(near)

    assert density(0.75) / density(0.25) == pytest.approx(1.8, abs=0.05)
    assert density(0.4) == pytest.approx(density(0.1), rel=0.03)


@given(painted=paintings)
@settings(deadline=None)
def test_shares_keep_their_order_and_reach_from_end_to_end(painted: list[Painted]) -> None:
    positions = [where_slices_show(share, painted) for share in np.linspace(0, 1, 21)]
    assert positions[0] == pytest.approx(0)
    assert positions[-1] == pytest.approx(1)
    assert (np.diff(positions) > 0).all()
    # Rates lie between a tenth and 1: so do the densities, one over the other.
    assert np.diff(positions).max() <= 10 * 0.05 + 0.01


@pytest.mark.parametrize("seed", range(5))
def test_the_cohort_asks_mostly_where_slices_showed_something(seed: int) -> None:
    half = painted_throughout(0.5)
    asked = [index_of("cohort", place, length=100, seed=seed, painted=half) for place in range(40)]
    assert sum(index >= 50 for index in asked) > 30
    # And the empty half is not given up: it teaches where the organ ends.
    assert any(index < 50 for index in asked)


# Representative ---------------------------------------------------------------------------------


def structured(depth: int, *odd: int) -> np.ndarray:
    """Slices of one texture with some noise; those at `odd` are flat."""
    rng = np.random.default_rng(0)
    ground = np.kron(rng.normal(size=(6, 6)), np.ones((4, 4)))
    stack = ground + 0.3 * rng.normal(size=(depth, 24, 24))
    stack[list(odd)] = 0
    return stack[None].astype(np.float32)


def representative(image: np.ndarray, axis: int = 0) -> int:
    (ref,) = select_slices(image, ("scan", axis), "representative", place=0, seed=0)
    return ref.index


@pytest.mark.parametrize("flat_ones", [(5,), (4, 5, 6), (2, 3, 4), (2, 5, 8)])
def test_a_slice_without_structure_represents_nobody(flat_ones: tuple[int, ...]) -> None:
    assert representative(structured(11, *flat_ones)) in {2, 3, 4, 5, 6, 7, 8} - set(flat_ones)


def test_the_representative_lies_in_the_central_part() -> None:
    assert CENTRAL_SHARE == 0.6
    # The only slices with the common texture outside of the middle would be the first and last.
    for depth in (5, 10, 15):
        margin = depth // 5
        image = structured(depth, *range(margin, depth - margin))
        assert margin <= representative(image) < depth - margin


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_representative_is_looked_for_along_the_axis(axis: int) -> None:
    image = np.moveaxis(structured(11, 4, 5), 1, 1 + axis)
    assert representative(image, axis) == representative(structured(11, 4, 5))


def test_the_representative_needs_neither_seed_nor_place() -> None:
    image = structured(9)
    refs = {
        select_slices(image, ("scan", 0), "representative", place=place, seed=seed)[0]
        for place in (0, 5)
        for seed in (0, 1)
    }
    assert len(refs) == 1


# Doubt --------------------------------------------------------------------------------------------

doubts = st.lists(st.floats(0, 1000), min_size=1, max_size=40).filter(lambda d: sum(d) > 1e-3)


@given(doubt=doubts, place=st.integers(0, 100), seed=st.integers(0, 2**32))
def test_only_a_slice_in_doubt_is_asked_for(doubt: list[float], place: int, seed: int) -> None:
    ref = slice_in_doubt(("scan", 1), doubt, place=place, seed=seed)
    assert (ref.scan_id, ref.axis) == ("scan", 1)
    assert doubt[ref.index] > 0
    assert slice_in_doubt(("scan", 1), doubt, place=place, seed=seed) == ref


def test_slices_are_asked_for_as_often_as_they_are_in_doubt() -> None:
    doubt = [0.0, 1.0, 3.0, 0.0, 6.0]
    asked = [slice_in_doubt(("s", 0), doubt, place=n, seed=0).index for n in range(200)]
    counts = np.bincount(asked, minlength=5) / 200
    np.testing.assert_allclose(counts, [0, 0.1, 0.3, 0, 0.6], atol=0.02)


@given(place=st.integers(0, 100), seed=st.integers(0, 2**32), length=st.integers(1, 40))
def test_the_same_doubt_everywhere_is_spread(place: int, seed: int, length: int) -> None:
    spread = index_of("spread", place, length=length, seed=seed)
    ref = slice_in_doubt(("s", 2), [2.0] * length, place=place, seed=seed)
    # A position on the border between two slices may fall on either side.
    assert abs(ref.index - spread) <= 1


def test_without_a_segmenter_doubt_is_cohort() -> None:
    half = [Painted(position, position < 0.5) for position in np.linspace(0, 1, 20)]
    for place in range(10):
        assert index_of("doubt", place, painted=half) == index_of("cohort", place, painted=half)
