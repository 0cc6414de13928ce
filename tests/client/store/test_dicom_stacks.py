"""Slices are put in order by their positions; what is no even, straight stack is refused in mm."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.store.dicom_stacks import Frame, Plane, arrange, split_into_stacks
from common.errors import BadScanError

Place = Sequence[float]


def _frame(
    position: Place, *, directions: np.ndarray | None = None, marks: tuple[str, ...] = ("", "")
) -> Frame:
    axes = np.eye(3) if directions is None else directions
    along, down = (tuple(float(n) for n in axes[:, column]) for column in (0, 1))
    x, y, z = (float(n) for n in position)
    plane = Plane((8, 6), (2.0, 0.5), (x, y, z), along, down)  # type: ignore[arg-type]
    return Frame(Path("any"), 0, f"{position} {marks}", plane, marks)


def _axial(*heights_mm: float, marks: tuple[str, ...] = ("", "")) -> list[Frame]:
    return [_frame((0, 0, height), marks=marks) for height in heights_mm]


def _heights(frames: Sequence[Frame]) -> list[float]:
    return sorted(frame.plane.position_mm[2] for frame in frames)


@given(
    degrees=st.lists(st.floats(-180, 180), min_size=3, max_size=3),
    origin_mm=st.lists(st.floats(-300, 300), min_size=3, max_size=3),
    step_mm=st.floats(0.3, 8),
    order=st.permutations(range(7)),
)
def test_any_order_gives_the_affine_of_the_grid(
    degrees: list[float], origin_mm: list[float], step_mm: float, order: list[int]
) -> None:
    directions = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()
    corners = np.array(origin_mm) + step_mm * np.outer(np.arange(7), directions[:, 2])
    frames = [_frame(corners[number], directions=directions) for number in order]
    arranged = arrange(frames)
    # Columns are 0.5 mm apart, rows 2 mm; RAS turns the first two of DICOM's coordinates round.
    lps = np.column_stack([directions * [0.5, 2.0, step_mm], origin_mm])
    np.testing.assert_allclose(arranged.affine[:3], lps * [[-1], [-1], [1]], atol=1e-9)
    found = [place[0].plane.position_mm for place in arranged.places]
    np.testing.assert_allclose(found, corners)


def test_slices_written_from_the_head_down_start_at_the_feet() -> None:
    arranged = arrange(_axial(30, 20, 10))
    assert arranged.names == ("z = 10.0 mm", "z = 20.0 mm", "z = 30.0 mm")


def test_a_flipped_normal_names_the_patients_own_coordinates() -> None:
    flipped = np.diag([1.0, -1.0, -1.0])
    frames = [_frame((0, 0, height), directions=flipped) for height in (0.0, 2.5, 7.5)]
    with pytest.raises(
        BadScanError, match=r"expected a slice at z = 5\.0 mm between 7\.5 and 2\.5"
    ):
        arrange(frames)


def test_a_missing_slice_is_named() -> None:
    heights = [25.0, 27.5, 30.0, 32.5, 35.0, 40.0, 42.5]
    wanted = (
        r"^expected a slice at z = 37\.5 mm between 35\.0 and 40\.0; positions found: 25\.0, "
        r"27\.5, 30\.0, 32\.5, 35\.0, 40\.0, 42\.5 mm \(7 in all\)$"
    )
    with pytest.raises(BadScanError, match=wanted):
        arrange(_axial(*heights))


def test_several_missing_slices_are_counted_and_the_first_hole_is_shown() -> None:
    heights = [float(n) for n in range(60) if n not in (30, 31, 40)]
    wanted = (
        r"expected a slice at z = 30\.0 mm between 29\.0 and 32\.0 \(2 more are missing\); "
        r"positions found: \.\.\. 24\.0, .*29\.0, 32\.0, .* 37\.0, \.\.\. mm \(57 in all\)"
    )
    with pytest.raises(BadScanError, match=wanted):
        arrange(_axial(*heights))


def test_uneven_slices_are_refused_with_the_odd_gap() -> None:
    wanted = (
        r"expected slices every 3\.00 mm, found 3\.90 mm between 6\.0 and 9\.9; positions found"
    )
    with pytest.raises(BadScanError, match=wanted):
        arrange(_axial(0, 3, 6, 9.9, 12.9))


def test_rounded_coordinates_are_even_enough() -> None:
    exact = 0.625 * np.arange(200)
    arranged = arrange(_axial(*np.round(exact, 2)))
    assert arranged.affine[2, 2] == pytest.approx(0.625, abs=1e-4)


def test_a_gantry_tilt_is_refused_with_its_angle() -> None:
    slope = np.tan(np.radians(15))
    frames = [_frame((0, slope * height, height)) for height in (0.0, 5.0, 10.0, 15.0)]
    wanted = r"as by a gantry tilt of 15\.0 degrees, 4\.02 mm from the first to the last: expected "
    with pytest.raises(BadScanError, match=wanted + r".*found: 0\.0, 5\.0, 10\.0, 15\.0 mm"):
        arrange(frames)


def test_one_slice_beside_the_others_is_refused() -> None:
    frames = [_frame((3.0 * (height == 5), 0, height)) for height in (0.0, 5.0, 10.0)]
    with pytest.raises(BadScanError, match=r"slice at z = 5\.0 mm lies 3\.00 mm beside the first"):
        arrange(frames)


def test_an_oblique_stack_names_millimetres_along_its_normal() -> None:
    turned = Rotation.from_euler("x", 30, degrees=True).as_matrix()
    frames = [_frame(height * turned[:, 2], directions=turned) for height in (0, 2, 6)]
    with pytest.raises(BadScanError, match=r"slice at 4\.0 mm along \(0\.00, -0\.50, 0\.87\)"):
        arrange(frames)


@pytest.mark.parametrize("heights", [(4.0,), (4.0, 6.0), (4.0, 6.0, 6.0)])
def test_fewer_than_three_slices_are_no_volume(heights: tuple[float, ...]) -> None:
    wanted = rf"at least 3 slices .*, found {len(set(heights))}, at z = 4\.0 mm"
    with pytest.raises(BadScanError, match=wanted):
        arrange(_axial(*heights))


def test_doubles_share_a_place() -> None:
    frames = [*_axial(0, 1, 2), *_axial(1, marks=("2", ""))]
    assert [len(place) for place in arrange(frames).places] == [1, 2, 1]


def test_a_localiser_comes_apart_by_direction() -> None:
    turned = np.array([[0, 0, 1.0], [1, 0, 0], [0, -1, 0]])
    upright = [_frame((x, 0, 0), directions=turned) for x in (0.0, 5.0, 10.0)]
    axial = _axial(0, 5, 10)
    mixed = [frame for pair in zip(axial, upright, strict=True) for frame in pair]
    stacks = split_into_stacks(mixed)
    assert [len(stack) for stack in stacks] == [3, 3]
    assert {frozenset(stack) for stack in stacks} == {frozenset(axial), frozenset(upright)}
    # The same stacks in the same order, whatever order the files came in.
    again = split_into_stacks(mixed[::-1])
    assert [set(stack) for stack in again] == [set(stack) for stack in stacks]


@pytest.mark.parametrize("change", [{"shape": (8, 7)}, {"spacing_mm": (2.0, 0.6)}])
def test_another_matrix_or_pixel_spacing_is_another_stack(change: dict[str, object]) -> None:
    frames = _axial(0, 1, 2, 3)
    odd = replace(frames[2], plane=replace(frames[2].plane, **change))  # type: ignore[arg-type]
    stacks = split_into_stacks([*frames[:2], odd, frames[3]])
    assert sorted(len(stack) for stack in stacks) == [1, 3]
    left = next(stack for stack in stacks if len(stack) == 3)
    with pytest.raises(
        BadScanError, match=r"expected a slice at z = 2\.0 mm between 1\.0 and 3\.0"
    ):
        arrange(left)


def test_echoes_at_the_same_places_come_apart() -> None:
    frames = [*_axial(0, 1, 2, marks=("1", "2.5")), *_axial(0, 1, 2, marks=("1", "90"))]
    stacks = split_into_stacks(frames)
    assert [{frame.marks for frame in stack} for stack in stacks] == [{("1", "2.5")}, {("1", "90")}]


def test_a_gap_in_one_echo_leaves_the_other_whole() -> None:
    frames = [*_axial(0, 1, 2, 3, 4, marks=("1", "")), *_axial(0, 1, 3, 4, marks=("2", ""))]
    first, second = split_into_stacks(frames)
    assert len(arrange(first).places) == 5
    with pytest.raises(BadScanError, match=r"expected a slice at z = 2\.0 mm"):
        arrange(second)


def test_two_marks_together_tell_stacks_apart() -> None:
    pairs = [("1", "a"), ("1", "b"), ("2", "a"), ("2", "b")]
    frames = [frame for marks in pairs for frame in _axial(0, 1, 2, marks=marks)]
    assert [stack[0].marks for stack in split_into_stacks(frames)] == pairs


def test_two_stations_of_one_series_come_apart() -> None:
    frames = [*_axial(0, 1, 2, 3, marks=("1", "")), *_axial(40, 41, 42, marks=("2", ""))]
    assert [_heights(stack) for stack in split_into_stacks(frames)] == [[0, 1, 2, 3], [40, 41, 42]]


def test_one_stack_of_several_acquisitions_stays_together() -> None:
    frames = [_frame((0, 0, height), marks=(str(height), "")) for height in range(6)]
    assert len(split_into_stacks(frames)) == 1


def test_a_gap_is_not_explained_away_by_acquisitions() -> None:
    frames = [*_axial(0, 1, 2, marks=("1", "")), *_axial(3, 5, 6, 7, marks=("2", ""))]
    (stack,) = split_into_stacks(frames)
    with pytest.raises(BadScanError, match=r"expected a slice at z = 4\.0 mm"):
        arrange(stack)


def test_copies_of_a_file_do_not_take_a_series_apart() -> None:
    frames = _axial(0, 1, 2, 3)
    copy = replace(frames[1], path=Path("copy"))
    (stack,) = split_into_stacks([*frames, copy])
    assert [len(place) for place in arrange(stack).places] == [1, 2, 1, 1]


def test_slices_in_all_directions_are_refused() -> None:
    turns = [Rotation.from_euler("z", n, degrees=True).as_matrix() for n in range(70)]
    frames = [_frame((0, 0, 0), directions=turn) for turn in turns]
    with pytest.raises(BadScanError, match="more than 64 directions or sizes"):
        split_into_stacks(frames)
