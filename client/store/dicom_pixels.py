"""The pixels of a DICOM file, what they mean, and of whom they are."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
from jaxtyping import Float
from pydicom.dataset import Dataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.utils import pixel_array
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from client.store.dicom_values import look_up, name_of_uid, quiet, text_of
from client.store.identities import Identity
from client.store.jpeg_size import promised_size
from common.errors import BadScanError

GREY = ("MONOCHROME1", "MONOCHROME2")
SLOPE = ("RescaleSlope", "PixelValueTransformationSequence")
INTERCEPT = ("RescaleIntercept", "PixelValueTransformationSequence")
# Written into the catalog's table of identities and nowhere else.
IDENTITY_DETAILS = {
    "name": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "study": "StudyInstanceUID",
    "study_date": "StudyDate",
    "series": "SeriesInstanceUID",
    "series_description": "SeriesDescription",
}
LONGEST_DETAIL = 256


@dataclass(frozen=True)
class FileContent:
    """What all frames of a file have in common.

    Attributes:
        modality: "CT" or "MR".
        is_inverted: small numbers are bright (MONOCHROME1).
        identity: whom the file is of.
    """

    modality: str
    is_inverted: bool
    identity: Identity


def read_content(
    path: Path, numbers: Sequence[int]
) -> tuple[FileContent, list[Float[np.ndarray, "rows columns"]]]:
    """Some of a file's frames, rescaled (Hounsfield units in CT), and what they have in common.

    Raises:
        BadScanError: the pixels cannot be unpacked, or they do not mean what a scan's mean.
    """
    try:
        with quiet():
            dataset = pydicom.dcmread(path, force=True)
            _check_meaning(dataset)
            _check_packing(dataset)
            content = FileContent(
                modality=text_of(dataset, "Modality"),
                is_inverted=text_of(dataset, "PhotometricInterpretation") == "MONOCHROME1",
                identity=_identity(dataset),
            )
            return content, [_pixels(dataset, number) for number in numbers]
    except BadScanError:
        raise
    except OSError as error:
        raise BadScanError(f"cannot be read: {error.strerror}") from None
    except Exception:  # noqa: BLE001
        raise BadScanError("truncated or damaged pixels") from None


def _check_meaning(dataset: Dataset) -> None:
    if "ModalityLUTSequence" in dataset:
        raise BadScanError("its values go through a table (ModalityLUTSequence), which is not read")
    # A palette's numbers are names of colours, not brightness.
    if text_of(dataset, "PhotometricInterpretation") not in GREY:
        raise BadScanError(f"expected a PhotometricInterpretation out of {', '.join(GREY)}")


def _check_packing(dataset: Dataset) -> None:
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if syntax is None:
        # Files without a preamble cannot say how they are written; how they could be read can.
        is_implicit, is_little = dataset.original_encoding
        endian = ExplicitVRLittleEndian if is_little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if is_implicit else endian
    elif syntax.is_compressed:
        try:
            is_known = get_decoder(syntax).is_available
        except NotImplementedError:
            is_known = False
        if not is_known:
            raise BadScanError(
                f"its pixels are packed as {_packing(dataset)}, which is not read: "
                "export it unpacked"
            )


def _pixels(dataset: Dataset, number: int) -> np.ndarray:
    is_packed = dataset.file_meta.TransferSyntaxUID.is_compressed
    try:
        if is_packed:
            _check_stream(dataset, number)
        stored = pixel_array(dataset, index=number).astype(np.float32)
    except Exception:
        if not is_packed:
            raise
        raise BadScanError(
            f"truncated or damaged pixels, or a kind of {_packing(dataset)} that is not read"
        ) from None
    slope, intercept = (_factor(dataset, number, *place) for place in ((SLOPE, 1), (INTERCEPT, 0)))
    if slope == 0:
        raise BadScanError("RescaleSlope is 0: all its values would be the same")
    rescaled: np.ndarray = stored * np.float32(slope) + np.float32(intercept)
    return rescaled


def _check_stream(dataset: Dataset, number: int) -> None:
    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        return
    num_frames = int(dataset.get("NumberOfFrames") or 1)
    promised = promised_size(get_frame(dataset.PixelData, number, number_of_frames=num_frames))
    if promised != (dataset.Rows, dataset.Columns, 1):
        raise BadScanError("the stream's size is another than the header's")


def _packing(dataset: Dataset) -> str:
    return name_of_uid(str(dataset.file_meta.TransferSyntaxUID), "an unknown transfer syntax")


def _factor(dataset: Dataset, number: int, place: tuple[str, str], default: float) -> float:
    value = look_up(dataset, number, place)
    if value is None or value == "":
        return default
    factor = float(value)  # type: ignore[arg-type]
    if not math.isfinite(factor):
        raise BadScanError(f"{place[0]}: expected a number, found {factor}")
    return factor


def _identity(dataset: Dataset) -> Identity:
    details = {name: text_of(dataset, keyword) for name, keyword in IDENTITY_DETAILS.items()}
    known = {name: text[:LONGEST_DETAIL] for name, text in details.items() if text}
    return Identity(text_of(dataset, "PatientID")[:LONGEST_DETAIL], known)
