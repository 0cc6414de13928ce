"""What the header of a DICOM file says: its series, and where its frames lie."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset

from client.store.dicom_stacks import Frame
from client.store.dicom_values import (
    DIRECTIONS,
    PER_FRAME,
    POSITION,
    SHARED,
    SPACING,
    look_up,
    name_of_uid,
    plane_of,
    quiet,
    text_of,
)
from common.errors import BadScanError

DICOM_DIRECTORY = "1.2.840.10008.1.3.10"
DEFLATED = b"1.2.840.10008.1.2.1.99"
META_BYTES = 1024
DAMAGED = "is truncated or damaged"
OF_SCANS = ("CT", "MR")
# Words of DICOM's own that may be repeated in a message.
OTHER_MODALITIES = (
    *("CR", "DX", "ES", "IO", "KO", "MG", "NM", "OT", "PR", "PT", "PX", "REG", "RF", "RTDOSE"),
    *("RTIMAGE", "RTPLAN", "RTSTRUCT", "SC", "SEG", "SM", "SR", "US", "XA"),
)
# In the order in which they are tried to tell stacks at one place apart.
MARKS = (
    ("AcquisitionNumber", "FrameContentSequence", "FrameAcquisitionNumber"),
    ("StackID", "FrameContentSequence", "StackID"),
    ("TemporalPositionIdentifier", "FrameContentSequence", "TemporalPositionIndex"),
    ("EchoTime", "MREchoSequence", "EffectiveEchoTime"),
    ("TriggerTime", "CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
    ("DiffusionBValue", "MRDiffusionSequence", "DiffusionBValue"),
    ("ImageType", "MRImageFrameTypeSequence", "FrameType"),
)
HEADER = [
    *("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "Modality", "ImageType"),
    *("Rows", "Columns", "SamplesPerPixel", "NumberOfFrames", PER_FRAME, SHARED),
    *(keyword for keyword, _ in (POSITION, DIRECTIONS, SPACING)),
    *(keyword for keyword, _, _ in MARKS),
]


@dataclass(frozen=True)
class Instance:
    """One file's header: its series (empty: unknown), and its frames, or why it has none."""

    series: str
    frames: tuple[Frame, ...]
    problem: str | None = None


def read_instance(path: Path) -> Instance | None:
    """What a file's header says; none for a DICOMDIR, which only lists files.

    A file that cannot be used is not raised but told, with its series if that can be made out.
    """
    try:
        header, series, is_directory = _read_header(path)
    except BadScanError as error:
        return Instance("", (), str(error))
    if is_directory:
        return None
    try:
        with quiet():
            return Instance(series, tuple(_frames(path, header)))
    except BadScanError as error:
        return Instance(series, (), str(error))
    # pydicom raises what it likes on damaged bytes, here and below.
    except Exception:  # noqa: BLE001
        return Instance(series, (), "has a damaged header")


def _read_header(path: Path) -> tuple[Dataset, str, bool]:
    """The header, its series, and whether it is a DICOMDIR's."""
    try:
        with path.open("rb") as file:
            is_deflated = DEFLATED in file.read(META_BYTES)
        if is_deflated:
            # pydicom would unpack it whole, to whatever size, only to see its header.
            raise BadScanError("is deflated as a whole: export it uncompressed")
        with quiet():
            header = pydicom.dcmread(
                path, stop_before_pixels=True, force=True, specific_tags=HEADER
            )
            is_directory = header.file_meta.get("MediaStorageSOPClassUID") == DICOM_DIRECTORY
            return header, text_of(header, "SeriesInstanceUID"), is_directory
    except BadScanError:
        raise
    except OSError as error:
        raise BadScanError(f"cannot be read: {error.strerror or 'truncated'}") from None
    except Exception:  # noqa: BLE001
        raise BadScanError(DAMAGED) from None


def _frames(path: Path, header: Dataset) -> Iterator[Frame]:
    _check_kind(header)
    per_frame, num_frames = header.get(PER_FRAME), int(header.get("NumberOfFrames") or 1)
    if num_frames > 1 and (per_frame is None or len(per_frame) != num_frames):
        raise BadScanError(
            f"holds {num_frames} frames but not the place of each: expected one slice per file, or "
            "enhanced CT or MR"
        )
    uid = text_of(header, "SOPInstanceUID")
    for number in range(num_frames):
        yield Frame(
            path=path,
            number=number,
            # A file without a number of its own is no copy of any other.
            instance=_digest(f"{uid or path} {number}"),
            plane=plane_of(header, number),
            marks=tuple(_mark(header, number, *mark) for mark in MARKS),
        )


def _check_kind(header: Dataset) -> None:
    kind = name_of_uid(text_of(header, "SOPClassUID"), "an unknown kind of object")
    modality = text_of(header, "Modality")
    if "SOPClassUID" not in header or ("Rows" not in header and "Image Storage" in kind):
        raise BadScanError(DAMAGED)
    if "Rows" not in header:
        raise BadScanError(f"holds no image: {kind}")
    if modality not in OF_SCANS:
        named = modality if modality in OTHER_MODALITIES else "unknown"
        raise BadScanError(f"expected CT or MR, found the modality {named} ({kind})")
    if header.get("SamplesPerPixel") not in (None, 1):
        raise BadScanError(f"expected one grey value per pixel, found colours ({kind})")
    if "MOSAIC" in text_of(header, "ImageType"):
        raise BadScanError("is a mosaic of slices in one picture: export one slice per file")


def _mark(header: Dataset, number: int, single: str, sequence: str, keyword: str) -> str:
    if PER_FRAME in header:
        return str(look_up(header, number, (keyword, sequence)) or "")
    return str(header.get(single, ""))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:32]
