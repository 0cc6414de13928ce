"""Small DICOM series as scanners write them: one file per slice, or one of many frames."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

Change = Callable[[Dataset, int], None]
STRAIGHT = np.eye(3)
FRAME_OF_REFERENCE = "1.2.3.4"
PATIENT = {
    "PatientID": "MRN-4711-0815",
    "PatientName": "Mustermann^Erika",
    "PatientBirthDate": "19640812",
    "PatientSex": "F",
    "StudyDate": "20260301",
    "SeriesDescription": "t1_mpr_sag_Mustermann",
}


def write_series(
    folder: Path,
    stored: np.ndarray,
    *,
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
    directions: np.ndarray = STRAIGHT,
    origin_mm: Sequence[float] = (0.0, 0.0, 0.0),
    modality: str = "MR",
    uid: str | None = None,
    change: Change | None = None,
    shuffled_by: int | None = None,
) -> list[Path]:
    """Writes (slice, row, column) as one file per slice; returns the files from first to last.

    `spacing_mm` runs as `stored` does; the columns of `directions` are the unit vectors along a
    row, down a column, and from slice to slice, in DICOM's coordinates. `change` may alter each
    slice's header before it is written. The files' names and instance numbers are in another order
    if `shuffled_by` is a seed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    series = uid or generate_uid()
    study = generate_uid(entropy_srcs=[series])
    names = np.arange(len(stored))
    if shuffled_by is not None:
        names = np.random.default_rng(shuffled_by).permutation(len(stored))
    paths = []
    for number, pixels in enumerate(stored):
        position = np.asarray(origin_mm) + number * spacing_mm[0] * directions[:, 2]
        kind = CTImageStorage if modality == "CT" else MRImageStorage
        dataset = _header(kind, pixels, f"{series} {number} {position.tolist()}")
        dataset.update(PATIENT)
        dataset.Modality, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = (
            modality, series, study,
        )  # fmt: skip
        dataset.InstanceNumber = int(names[number]) + 1
        dataset.ImagePositionPatient = [float(f"{n:.8g}") for n in position]
        dataset.ImageOrientationPatient = [float(f"{n:.9g}") for n in directions[:, :2].T.ravel()]
        dataset.PixelSpacing, dataset.SliceThickness = [*spacing_mm[1:]], spacing_mm[0]
        dataset.PixelData = np.ascontiguousarray(pixels).tobytes()
        if change is not None:
            change(dataset, number)
        path = folder / f"IM{names[number]:04d}"
        save(dataset, path)
        paths.append(path)
    return paths


def write_enhanced(
    path: Path,
    stored: np.ndarray,
    heights_mm: Sequence[float],
    *,
    slopes: Sequence[float],
    change: Callable[[Dataset], None] | None = None,
) -> Path:
    """One file of many frames (enhanced MR), axial, 2 x 1 mm pixels, frames in the given order."""
    series = generate_uid(entropy_srcs=[path.parent.name])
    dataset = _header(EnhancedMRImageStorage, stored[0], series)
    dataset.update(PATIENT)
    dataset.Modality, dataset.SeriesInstanceUID = "MR", series
    dataset.NumberOfFrames = len(stored)
    shared = Dataset()
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])]
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[2.0, 1.0])]
    dataset.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for height_mm, slope in zip(heights_mm, slopes, strict=True):
        group = Dataset()
        group.PlanePositionSequence = [_item(ImagePositionPatient=[-5.0, -6.0, height_mm])]
        group.PixelValueTransformationSequence = [
            _item(RescaleSlope=slope, RescaleIntercept=1.0, RescaleType="US")
        ]
        groups.append(group)
    dataset.PerFrameFunctionalGroupsSequence = groups
    dataset.PixelData = np.ascontiguousarray(stored).tobytes()
    if change is not None:
        change(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(dataset, path)
    return path


def save(dataset: Dataset, path: Path) -> None:
    """Writes a file with a preamble, in the encoding that its meta header names."""
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


def rewrite(path: Path, change: Callable[[Dataset], None]) -> None:
    """Changes a file in place."""
    # Also to values that DICOM does not allow.
    with disable_value_validation():
        dataset = pydicom.dcmread(path)
        change(dataset)
        save(dataset, path)


def _header(kind: str, pixels: np.ndarray, source: str) -> FileDataset:
    """Numbers that follow from `source`, so that the same call writes the same bytes."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = kind
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[source])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
    # What else writers of segmentations want of the images that they refer to.
    dataset.update({"FrameOfReferenceUID": FRAME_OF_REFERENCE, "StudyID": "1", "SeriesNumber": 1})
    dataset.update({"AccessionNumber": "", "StudyTime": "", "ReferringPhysicianName": ""})
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    return dataset


def _item(**values: object) -> Dataset:
    item = Dataset()
    item.update(values)
    return item
