"""Which frames of a DICOM series form a stack, and where the voxels of the stack lie.

Positions decide, along the normal of the slices; file names and instance numbers decide nothing.
Coordinates are DICOM's: millimetres to the patient's left, back and head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from client.store.slice_positions import SlicePositions
from client.store.volume_files import LPS_TO_RAS
from common.errors import BadScanError

FEWEST_SLICES = 3
MOST_DIRECTIONS = 64
# 0.1 mm at half a metre from the first voxel; scanners write at least four decimals.
DIRECTION_TOLERANCE = 2e-4
SPACING_TOLERANCE_SHARE = 1e-3
SAME_PLACE_MM = 0.01
# How far a slice may lie from its place in an even, straight stack: rounded coordinates; and thick
# slices are placed less exactly than thin ones.
PLACE_TOLERANCE_MM = 0.05
PLACE_TOLERANCE_SHARE = 0.02


@dataclass(frozen=True)
class Plane:
    """Where the pixels of a frame lie.

    Attributes:
        shape: rows, columns.
        spacing_mm: from row to row, from column to column.
        position_mm: centre of the first pixel.
        along_row: unit vector on which the column number grows.
        down_column: unit vector on which the row number grows.
    """

    shape: tuple[int, int]
    spacing_mm: tuple[float, float]
    position_mm: tuple[float, float, float]
    along_row: tuple[float, float, float]
    down_column: tuple[float, float, float]


@dataclass(frozen=True)
class Frame:
    """One slice in one file.

    Attributes:
        path: the file.
        number: its place in the file, from 0.
        instance: the same for copies of one frame, whatever their files are called.
        plane: where it lies.
        marks: what can tell it from a frame of another stack at the same place (acquisition,
            echo, time, ...), in the order in which it is tried; empty where the file is silent.
    """

    path: Path
    number: int
    instance: str
    plane: Plane
    marks: tuple[str, ...]


@dataclass(frozen=True)
class Stack:
    """Frames that are read as one volume.

    Attributes:
        frames: in any order.
        problem: why they cannot be read; none as far as their headers tell.
        siblings: into how many stacks their series came apart.
    """

    frames: tuple[Frame, ...]
    problem: str | None = None
    siblings: int = 1


@dataclass(frozen=True)
class Arrangement:
    """A stack in order.

    Attributes:
        places: from the first slice along the normal to the last; more than one frame at a place
            are doubles.
        names: the places in words, such as "z = 37.5 mm".
        affine: 4 x 4, (column, row, slice) to RAS millimetres.
    """

    places: tuple[tuple[Frame, ...], ...]
    names: tuple[str, ...]
    affine: Float[np.ndarray, "4 4"]


def split_into_stacks(frames: Sequence[Frame]) -> list[tuple[Frame, ...]]:
    """Takes a series apart where it holds several stacks, as localisers and echoes do.

    Frames of one direction, matrix and pixel spacing stay together, unless only a mark tells frames
    at the same place apart. The order of the stacks does not depend on the files' names.
    """
    alike: list[list[Frame]] = []
    for frame in frames:
        group = next((g for g in alike if _are_alike(g[0].plane, frame.plane)), None)
        if group is not None:
            group.append(frame)
        elif len(alike) < MOST_DIRECTIONS:
            alike.append([frame])
        else:
            raise BadScanError(
                f"expected parallel slices of one size, found more than {MOST_DIRECTIONS} "
                "directions or sizes in one series"
            )
    stacks = [stack for group in alike for stack in _split_by_marks(tuple(group))]
    return sorted(stacks, key=lambda stack: min(_sorting_key(frame) for frame in stack))


def arrange(frames: Sequence[Frame]) -> Arrangement:
    """Frames of one direction in the order of their positions.

    Raises:
        BadScanError: fewer than three places, or not one even, straight stack without a gap.
    """
    plane = frames[0].plane
    normal = _normal(plane)
    corners_mm = np.array([frame.plane.position_mm for frame in frames])
    order = np.argsort(corners_mm @ normal, kind="stable")
    heights_mm = (corners_mm @ normal)[order]
    starts = np.flatnonzero(np.diff(heights_mm, prepend=-np.inf) > SAME_PLACE_MM)
    positions = SlicePositions(normal, heights_mm[starts])
    if len(starts) < FEWEST_SLICES:
        raise BadScanError(
            f"expected at least {FEWEST_SLICES} slices one above the other, found {len(starts)}, "
            f"at {', '.join(positions.named(height) for height in heights_mm[starts])}"
        )
    tolerance_mm = max(PLACE_TOLERANCE_MM, PLACE_TOLERANCE_SHARE * positions.step_mm)
    _check_straight(corners_mm[order], heights_mm, positions, tolerance_mm)
    _check_even(positions, tolerance_mm)
    places = tuple(tuple(frames[n] for n in place) for place in np.split(order, starts[1:]))
    names = tuple(positions.named(height) for height in positions.heights_mm)
    return Arrangement(places, names, _affine(places, positions))


def _normal(plane: Plane) -> Float[np.ndarray, "3"]:
    across = np.cross(plane.along_row, plane.down_column)
    normal: np.ndarray = across / np.sqrt((across**2).sum())
    return normal


def _are_alike(one: Plane, other: Plane) -> bool:
    directions = np.subtract(one.along_row + one.down_column, other.along_row + other.down_column)
    spacing_share = np.divide(one.spacing_mm, other.spacing_mm) - 1
    return (
        one.shape == other.shape
        and float(np.abs(directions).max()) <= DIRECTION_TOLERANCE
        and float(np.abs(spacing_share).max()) <= SPACING_TOLERANCE_SHARE
    )


def _split_by_marks(frames: tuple[Frame, ...]) -> list[tuple[Frame, ...]]:
    """One stack if they can be one; else by the first mark, or all together, that makes stacks."""
    without_copies = list({frame.instance: frame for frame in frames}.values())
    has_doubles = _has_doubles(without_copies)
    if not has_doubles and _is_even(without_copies):
        return [frames]
    num_marks = len(frames[0].marks)
    for chosen in [*((number,) for number in range(num_marks)), tuple(range(num_marks))]:
        parts: dict[tuple[str, ...], list[Frame]] = {}
        for frame in frames:
            parts.setdefault(tuple(frame.marks[number] for number in chosen), []).append(frame)
        if len(parts) > 1 and all(_is_whole(part, has_doubles) for part in parts.values()):
            return [tuple(part) for part in parts.values()]
    return [frames]


def _is_whole(frames: Sequence[Frame], whole_has_doubles: bool) -> bool:
    """Whether a part counts as a stack of its own.

    A gap in a part is no reason to leave doubles together; but a stack with a gap and no doubles is
    one stack with a gap, unless its parts have none.
    """
    without_copies = list({frame.instance: frame for frame in frames}.values())
    if len(without_copies) < FEWEST_SLICES or _has_doubles(without_copies):
        return False
    return whole_has_doubles or _is_even(without_copies)


def _has_doubles(frames: Sequence[Frame]) -> bool:
    normal = _normal(frames[0].plane)
    heights_mm = np.sort([np.dot(frame.plane.position_mm, normal) for frame in frames])
    return bool((np.diff(heights_mm) <= SAME_PLACE_MM).any())


def _is_even(frames: Sequence[Frame]) -> bool:
    try:
        arrange(frames)
    except BadScanError:
        return False
    return True


def _sorting_key(frame: Frame) -> tuple[object, ...]:
    plane = frame.plane
    directions = [round(number, 2) for number in plane.along_row + plane.down_column]
    return (plane.shape, directions, frame.marks, plane.position_mm, frame.instance)


def _check_straight(
    corners_mm: np.ndarray, heights_mm: np.ndarray, positions: SlicePositions, tolerance_mm: float
) -> None:
    """The way from the first slice to each other one must run along the normal."""
    rises_mm = heights_mm - heights_mm[0]
    beside_mm = corners_mm - corners_mm[0] - np.outer(rises_mm, positions.normal)
    off_mm = np.sqrt((beside_mm**2).sum(axis=1))
    worst = int(np.argmax(off_mm))
    if off_mm[worst] <= tolerance_mm:
        return
    drift = beside_mm[-1] / rises_mm[-1]
    if np.abs(beside_mm - np.outer(rises_mm, drift)).max() <= tolerance_mm:
        degrees = float(np.degrees(np.arctan(np.sqrt((drift**2).sum()))))
        raise BadScanError(
            f"the slices are shifted against each other as by a gantry tilt of {degrees:.1f} "
            f"degrees, {off_mm[-1]:.2f} mm from the first to the last: expected each straight "
            f"above the one before; {positions.found()}; export the series with the tilt corrected"
        )
    raise BadScanError(
        f"the slice at {positions.named(heights_mm[worst])} lies {off_mm[worst]:.2f} mm beside the "
        f"first one: expected each straight above the one before; {positions.found()}"
    )


def _check_even(positions: SlicePositions, tolerance_mm: float) -> None:
    heights_mm, gaps_mm = positions.heights_mm, positions.gaps_mm
    even_mm = np.linspace(heights_mm[0], heights_mm[-1], len(heights_mm))
    if np.abs(heights_mm - even_mm).max() <= tolerance_mm:
        return
    step_mm = positions.step_mm
    steps = np.maximum(np.round(gaps_mm / step_mm), 1)
    if steps.max() > 1 and np.abs(gaps_mm - steps * step_mm).max() <= 2 * tolerance_mm:
        hole = int(np.argmax(steps > 1))
        num_others = int((steps - 1).sum()) - 1
        raise BadScanError(
            f"expected a slice at {positions.named(heights_mm[hole] + step_mm)} between "
            f"{positions.bare(heights_mm[hole])} and {positions.bare(heights_mm[hole + 1])}"
            f"{f' ({num_others} more are missing)' if num_others else ''}; "
            f"{positions.found(hole + 1)}"
        )
    odd = int(np.argmax(np.abs(gaps_mm - step_mm)))
    raise BadScanError(
        f"expected slices every {step_mm:.2f} mm, found {gaps_mm[odd]:.2f} mm between "
        f"{positions.bare(heights_mm[odd])} and {positions.bare(heights_mm[odd + 1])}; "
        f"{positions.found(odd + 1)}"
    )


def _affine(places: tuple[tuple[Frame, ...], ...], positions: SlicePositions) -> np.ndarray:
    plane, heights_mm = places[0][0].plane, positions.heights_mm
    row_mm, column_mm = plane.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(plane.along_row) * column_mm
    affine[:3, 1] = np.asarray(plane.down_column) * row_mm
    affine[:3, 2] = positions.normal * (heights_mm[-1] - heights_mm[0]) / (len(places) - 1)
    affine[:3, 3] = plane.position_mm
    return LPS_TO_RAS @ affine
