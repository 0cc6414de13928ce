"""DICOM SEG: segmentations of other programs, with names and SNOMED codes."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from highdicom.seg import Segmentation, SegmentationTypeValues, segread

from client.annotation.painted_files import LARGEST_VALUE, Block, PaintedFile, Segment
from client.store.dicom_values import look_up, plane_of, quiet, text_of
from client.store.volume_files import LPS_TO_RAS
from common.errors import BadScanError

SEGMENT_OF_FRAME = ("ReferencedSegmentNumber", "SegmentIdentificationSequence")


def read_segmentation(path: Path) -> PaintedFile:
    """A DICOM SEG of any kind; each frame is laid out by its own position.

    Raises:
        BadScanError: no segmentation, damaged, or with shares of voxels instead of yes and no.
    """
    try:
        with quiet():
            return _read(segread(path))
    except BadScanError:
        raise
    # highdicom and pydicom raise what they like on damaged bytes.
    except Exception:  # noqa: BLE001
        raise BadScanError(
            "the file cannot be read: expected a DICOM SEG, or it is truncated or damaged"
        ) from None


def _read(segmentation: Segmentation) -> PaintedFile:
    kind = segmentation.segmentation_type
    is_labelmap = kind == SegmentationTypeValues.LABELMAP
    return PaintedFile(
        segments=tuple(_segments(segmentation, is_labelmap)),
        blocks=tuple(_blocks(segmentation, is_labelmap)),
        patient=text_of(segmentation, "PatientID"),
    )


def _segments(segmentation: Segmentation, is_labelmap: bool) -> Iterator[Segment]:
    """All in one layer in a labelmap, else each in a layer of its own: they may overlap."""
    # A labelmap may describe its background too, as number 0.
    for number in filter(None, segmentation.segment_numbers):
        if number > LARGEST_VALUE:
            raise BadScanError(f"expected segment numbers 1 to {LARGEST_VALUE}, found {number}")
        described = segmentation.get_segment_description(number)
        code = described.segmented_property_type
        snomed = code.value if code.scheme_designator == "SCT" else None
        yield Segment(number, 0 if is_labelmap else number, described.segment_label, snomed)


def _blocks(segmentation: Segmentation, is_labelmap: bool) -> Iterator[Block]:
    for place in range(segmentation.number_of_frames):
        frame = np.asarray(segmentation.get_stored_frame(place + 1))
        number = 0
        if not is_labelmap:
            number = int(look_up(segmentation, place, SEGMENT_OF_FRAME))  # type: ignore[call-overload]
            frame = number * _yes_or_no(segmentation, frame)
        if frame.max() > LARGEST_VALUE:
            raise BadScanError(f"expected segment numbers 1 to {LARGEST_VALUE}, found larger ones")
        values = frame.T[..., None].astype(np.uint8)
        yield Block(number, values, _affine(segmentation, place))


def _yes_or_no(segmentation: Segmentation, frame: np.ndarray) -> np.ndarray:
    most = 1
    if segmentation.segmentation_type == SegmentationTypeValues.FRACTIONAL:
        most = int(segmentation.MaximumFractionalValue)
    if not np.isin(frame, (0, most)).all():
        raise BadScanError(
            "expected every voxel in a segment or out of it, found shares (FRACTIONAL): export the "
            "segmentation as BINARY or LABELMAP"
        )
    is_in: np.ndarray = frame == most
    return is_in


def _affine(segmentation: Segmentation, number: int) -> np.ndarray:
    """Of one frame: (column, row, 0) to RAS mm; along the slice any length would do."""
    plane = plane_of(segmentation, number)
    row_mm, column_mm = plane.spacing_mm
    affine = np.eye(4)
    affine[:3, 0] = np.asarray(plane.along_row) * column_mm
    affine[:3, 1] = np.asarray(plane.down_column) * row_mm
    affine[:3, 2] = np.cross(plane.along_row, plane.down_column)
    affine[:3, 3] = plane.position_mm
    return LPS_TO_RAS @ affine
