"""Values of a DICOM header, checked one by one.

Any text in a damaged file may be a name that slipped out of its place, so no text of a file gets
into a message: only numbers, and words out of DICOM's own dictionaries. This and the other files
that import pydicom are imported late, because pydicom is an extra.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from warnings import catch_warnings, simplefilter

import numpy as np
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.uid import UID

from client.store.dicom_stacks import Plane
from client.store.volume_files import LARGEST_AXIS_VOXELS
from common.errors import BadScanError

PER_FRAME, SHARED = "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"
# Where a value stands: a keyword of single-frame files, and for the frames of others a sequence.
POSITION = ("ImagePositionPatient", "PlanePositionSequence")
DIRECTIONS = ("ImageOrientationPatient", "PlaneOrientationSequence")
SPACING = ("PixelSpacing", "PixelMeasuresSequence")
# No scanner is that long; sums of larger numbers would lose the millimetres.
FARTHEST_MM = 1e6


@contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings of pydicom, which quote values, which may be names."""
    logger = logging.getLogger("pydicom")
    was_disabled, logger.disabled = logger.disabled, True
    try:
        with catch_warnings(), disable_value_validation():
            simplefilter("ignore")
            yield
    finally:
        logger.disabled = was_disabled


def plane_of(header: Dataset, number: int) -> Plane:
    """Where a frame lies.

    Raises:
        BadScanError: a value is missing or impossible.
    """
    shape = (_side(header, "Rows"), _side(header, "Columns"))
    x, y, z = _numbers(header, number, POSITION, 3)
    directions = np.array(_numbers(header, number, DIRECTIONS, 6)).reshape(2, 3)
    lengths = np.sqrt((directions**2).sum(axis=1))
    if np.abs(lengths - 1).max() > 1e-3 or abs(float(directions[0] @ directions[1])) > 1e-3:
        raise BadScanError("ImageOrientationPatient: expected two unit vectors at a right angle")
    along_row, down_column = (directions / lengths[:, None]).tolist()
    row_mm, column_mm = _numbers(header, number, SPACING, 2)
    if min(row_mm, column_mm) <= 0:
        raise BadScanError(f"PixelSpacing: expected positive numbers, found {row_mm}, {column_mm}")
    return Plane(shape, (row_mm, column_mm), (x, y, z), tuple(along_row), tuple(down_column))


def look_up(header: Dataset, number: int, place: tuple[str, str]) -> object:
    """A value of one frame: at the top of single-frame files, else in the frame's own groups."""
    keyword, sequence = place
    if PER_FRAME not in header:
        return header.get(keyword)
    for groups in (header[PER_FRAME].value[number], *header.get(SHARED, [])):
        if groups.get(sequence):
            return groups[sequence].value[0].get(keyword)
    return None


def _numbers(header: Dataset, number: int, place: tuple[str, str], count: int) -> list[float]:
    value = look_up(header, number, place)
    if value is None or value == "":
        raise BadScanError(f"{place[0]} is missing")
    try:
        found = [float(entry) for entry in value]  # type: ignore[attr-defined]
    except (TypeError, ValueError):
        found = []
    # Also False for NaN.
    if len(found) != count or not all(abs(entry) <= FARTHEST_MM for entry in found):
        raise BadScanError(f"{place[0]}: expected {count} usable numbers, found something else")
    return found


def text_of(header: Dataset, keyword: str) -> str:
    """A value as text that SQLite takes; empty if there is none."""
    value = header.get(keyword)
    return "" if value is None else str(value).strip().encode("utf-8", "replace").decode()


def name_of_uid(uid: str, otherwise: str) -> str:
    """DICOM's own name for a number; pydicom repeats the number where there is none."""
    name = UID(uid).name
    return otherwise if name == uid else name


def _side(header: Dataset, keyword: str) -> int:
    value = header.get(keyword)
    if not isinstance(value, int) or not 1 <= value <= LARGEST_AXIS_VOXELS:
        raise BadScanError(f"{keyword}: expected a number from 1 to {LARGEST_AXIS_VOXELS}")
    return value
