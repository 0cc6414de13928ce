"""What was found in a DICOM series as a DICOM SEG that refers to its images.

It holds the patient's name and numbers, as the series does, so that an archive puts the two
together. pydicom and highdicom are an extra, so this file is imported late.
"""

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
from jaxtyping import UInt8
from matplotlib.colors import to_rgb
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from client.prediction.model import Model
from client.store.atomic_files import check_room, write_atomically
from client.store.dicom_stacks import Arrangement, Stack, arrange
from client.store.dicom_values import quiet
from client.store.volume_files import LPS_TO_RAS
from common.errors import BadScanError
from common.plan import Label
from common.version import SOFTWARE

MAKER = "OneSlice"
OWN_CODES = "99ONESLICE"  # for labels without a SNOMED code
# Every DICOM image has them, if only empty; exports of research programs may not.
OFTEN_MISSING = (
    *("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName"),
    *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
)
LONGEST_TEXT = 64  # DICOM's LO
SERIES_NUMBER = 900


def write_segmentation(
    path: Path, labels: UInt8[np.ndarray, "columns rows slices"], stack: Stack, model: Model
) -> None:
    """Writes a BINARY segmentation of a stack, a segment for each label that the model has learned.

    Args:
        path: where to.
        labels: in the order in which `read_stack` reads the stack.
        stack: of the series that it was predicted from.
        model: what predicted it.

    Raises:
        BadScanError: the series lacks what a segmentation must refer to.
        DiskFullError: there is no room.
    """
    arrangement = arrange(stack.frames)
    try:
        with quiet():
            images = _read_images(arrangement)
            segmentation = _build(images, _place(labels, arrangement, images[0]), model)
    # highdicom and pydicom raise what they like on headers that break the standard.
    except Exception as error:  # noqa: BLE001
        raise BadScanError(
            f"no DICOM SEG could be made of it ({type(error).__name__}): its headers lack what a "
            "segmentation must refer to"
        ) from None
    check_room(path.parent, labels.size * len(model.labels) // 8)
    write_atomically(path, lambda unfinished: _save(unfinished, segmentation))


def _read_images(arrangement: Arrangement) -> list[Dataset]:
    """The headers of the files, one for each; of doubles, which are the same, the first."""
    paths = dict.fromkeys(place[0].path for place in arrangement.places)
    images: list[Dataset] = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    for image in images:
        for keyword in OFTEN_MISSING:
            if keyword not in image:
                setattr(image, keyword, None)
    return images


def _place(labels: np.ndarray, arrangement: Arrangement, image: Dataset) -> hd.Volume:
    """The labels as (slice, row, column), with where they lie."""
    affine = (LPS_TO_RAS @ arrangement.affine)[:, [2, 1, 0, 3]]
    return hd.Volume(
        np.ascontiguousarray(labels.transpose(2, 1, 0)),
        affine,
        coordinate_system="PATIENT",
        frame_of_reference_uid=image.FrameOfReferenceUID,
    )


def _build(images: Sequence[Dataset], placed: hd.Volume, model: Model) -> Segmentation:
    found_by = _algorithm(model)
    segmentation = Segmentation(
        source_images=images,
        pixel_array=placed.with_array(_renumber(placed.array, model.labels)),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _describe(number, label, found_by) for number, label in enumerate(model.labels, start=1)
        ],
        series_instance_uid=hd.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=f"{MAKER} {model.role}",
        software_versions=SOFTWARE,
        device_serial_number=model.record.models_sha256[:LONGEST_TEXT],
        content_label="ONESLICE",
        content_description=model.title[:LONGEST_TEXT],
        series_description=f"{MAKER} {model.role}, not reviewed",
        omit_empty_frames=bool(placed.array.any()),
    )
    # highdicom copies those of the series where they fit, and cannot read what lacks a thickness.
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    shared.PixelMeasuresSequence = placed.get_pixel_measures()
    return segmentation


def _renumber(labels: np.ndarray, known: Sequence[Label]) -> np.ndarray:
    """Segments are numbered from 1 without a gap; labels that are not learned yet may leave one."""
    number_of = np.zeros(256, dtype=np.uint8)
    for number, label in enumerate(known, start=1):
        number_of[label.index] = number
    numbered: np.ndarray = number_of[labels]
    return numbered


def _describe(
    number: int, label: Label, found_by: hd.AlgorithmIdentificationSequence
) -> SegmentDescription:
    own = Code(str(label.index), OWN_CODES, label.name)
    kind = Code(label.snomed, "SCT", label.name) if label.snomed is not None else own
    red, green, blue = (round(255 * share) for share in to_rgb(label.colour))
    return SegmentDescription(
        segment_number=number,
        segment_label=label.name,
        segmented_property_category=codes.SCT.AnatomicalStructure,
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=found_by,
        display_color=hd.color.CIELabColor.from_rgb(red, green, blue),
    )


def _algorithm(model: Model) -> hd.AlgorithmIdentificationSequence:
    record = model.record
    return hd.AlgorithmIdentificationSequence(
        name=f"{MAKER} {model.role}",
        family=codes.DCM.ArtificialIntelligence,
        version=f"{record.federation} round {record.round}"[:LONGEST_TEXT],
        source=MAKER,
        parameters={
            "federation": record.federation,
            "round": str(record.round),
            "models_sha256": record.models_sha256,
            "software": record.software,
        },
    )


def _save(path: Path, segmentation: Segmentation) -> None:
    segmentation.save_as(path)
