"""A scan as the model takes it: read, turned and normalised as at `ingest`.

A scan of the wrong kind is refused. DICOM says what it is, and some descriptions of data sets do;
where nothing does, the values may give it away: Hounsfield units go far below zero.
"""

import math
from dataclasses import dataclass, replace

import numpy as np

from client.learning.predict import size_at_spacing
from client.prediction.model import Model
from client.store.dicom_stacks import Stack
from client.store.ingest import ReadCase, read_case
from client.store.layouts import Case, Dataset
from client.store.normalise import normalise
from client.store.orientation import OriginalGeometry
from client.store.volume_files import LARGEST_VOLUME_VOXELS
from common.errors import BadScanError
from common.plan import Task
from common.scans import Modality, Scan

# Air is -1000 HU and fat -100; where MR is resampled it rings a little below zero.
SURELY_CT, SURELY_MR = -500.0, -60.0


@dataclass(frozen=True)
class ScanToPredict:
    """A scan that the model takes.

    Attributes:
        name: of its case.
        scan: normalised, RAS.
        original: how it lay in its file.
        stack: its frames, if it came as DICOM.
        note: what was passed over; none if nothing was.
    """

    name: str
    scan: Scan
    original: OriginalGeometry
    stack: Stack | None
    note: str | None


def read_scan(dataset: Dataset, case: Case, model: Model, told: Task | None) -> ScanToPredict:
    """Reads, checks and normalises a case; `told` is the task that it is said to be for.

    Raises:
        BadScanError: unreadable, not of the model's modality, or nothing says how to normalise it.
    """
    # Without its label: a broken one is no reason not to predict the scan.
    read = read_case(dataset, replace(case, label=None))
    if len(read.image) != model.record.plan.channels:
        raise BadScanError(
            f"the model takes {model.record.plan.channels} channel(s), the scan has "
            f"{len(read.image)}, from {len(case.images)} file(s)"
        )
    _check_size(read, model)
    task = _task_of(read, dataset.modality, model, told)
    image = normalise(read.image, task.modality, task.window_hu)
    scan = Scan(read.volume_id, image, read.geometry, task.modality)
    note = read.dicom.note if read.dicom is not None else None
    return ScanToPredict(case.name, scan, read.original, case.stack, note)


def _check_size(read: ReadCase, model: Model) -> None:
    """A header that tells a wrong unit would make a volume larger than any memory."""
    spacing_mm = model.record.plan.training.spacing_mm
    if spacing_mm is None:
        return
    size = size_at_spacing(read.geometry, spacing_mm)
    if math.prod(size) > LARGEST_VOLUME_VOXELS:
        own, wanted = (
            " x ".join(f"{mm:g}" for mm in sides)
            for sides in (read.geometry.spacing_mm, spacing_mm)
        )
        raise BadScanError(
            f"its voxels of {own} mm would become {' x '.join(map(str, size))} of the model's "
            f"{wanted} mm, at most {LARGEST_VOLUME_VOXELS} in all are taken: does the header tell "
            "the spacing in another unit?"
        )


def _task_of(read: ReadCase, described: Modality | None, model: Model, told: Task | None) -> Task:
    """One of the model's tasks whose scans are normalised as this one must be."""
    modality = read.dicom.modality if read.dicom is not None else described
    tasks = model.tasks if told is None else (told,)
    fitting = [task for task in tasks if modality in (None, task.modality)]
    if not fitting:
        taken = " or ".join(sorted({task.modality for task in tasks}))
        raise BadScanError(f"the scan is {modality}, the model takes {taken}")
    if len({(task.modality, task.window_hu) for task in fitting}) > 1:
        listed = "; ".join(f"{task.name}: {_in_words(task)}" for task in fitting)
        raise BadScanError(
            f"the model's tasks take different scans ({listed}), and nothing says which this is: "
            "name its task with --task"
        )
    if modality is None and told is None:
        _check_values(read.image, fitting[0])
    return fitting[0]


def _in_words(task: Task) -> str:
    if task.window_hu is None:
        return task.modality
    return f"{task.modality}, {task.window_hu[0]:g} to {task.window_hu[1]:g} HU"


def _check_values(image: np.ndarray, task: Task) -> None:
    lowest = float(image.min())
    is_wrong = lowest <= SURELY_CT if task.modality == "MR" else lowest >= SURELY_MR
    if is_wrong:
        other = "Hounsfield units, so CT" if task.modality == "MR" else "no Hounsfield units of CT"
        raise BadScanError(
            f"the model takes {task.modality}; values that begin at {lowest:g} look like {other}. "
            f"If it is {task.modality} nevertheless, say so with --task {task.name}"
        )
