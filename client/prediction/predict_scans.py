"""Predicts scan after scan; one that cannot be used is set aside with a reason."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.prediction.model import Model
from client.prediction.outcome import Outcome, measure_volumes, predict
from client.prediction.overlay import draw_overlay
from client.prediction.read_scan import ScanToPredict, read_scan
from client.prediction.results import ENDING, Prediction, Results
from client.store.atomic_files import check_room, write_atomically
from client.store.layouts import Dataset
from client.store.orientation import from_ras
from client.store.volume_files import write_volume_like
from common.errors import BadScanError
from common.plan import Task

LABELS, CONFIDENCE = "_labels.nii.gz", "_confidence.nii.gz"
OVERLAY, SEGMENTATION = "_overlay.png", "_labels.dcm"
# The record first: where it is, the others are whole.
ENDINGS = (ENDING, LABELS, CONFIDENCE, OVERLAY, SEGMENTATION)
LONGEST_NAME_BYTES = 255
REPLACED = "results of another scan of this name, or of this one as it was before, were replaced"


@dataclass(frozen=True)
class PredictionReport:
    """What became of the cases. `set_aside` and `notes` hold names and reasons."""

    predicted: tuple[str, ...]
    done_before: tuple[str, ...]
    set_aside: tuple[tuple[str, str], ...]
    notes: tuple[tuple[str, str], ...]


def predict_scans(
    model: Model,
    dataset: Dataset,
    results: Results,
    told: Task | None,
    on_case: Callable[[str], None],
) -> PredictionReport:
    """Predicts all cases of a data set that are not done yet, and sums up what the folder holds.

    Raises:
        StoreError: the results cannot be written (a full disk); what was written stays.
    """
    predicted, before, bad, notes = [], [], [], []
    seen: set[str] = set()
    for case in dataset.cases:
        try:
            if case.name in seen:
                raise BadScanError("another file has the same name: rename one of them")
            seen.add(case.name)
            _check_name(case.name)
            scan = read_scan(dataset, case, model, told)
            found = results.find(case.name)
            if found is not None and _is_of(found, scan):
                before.append(case.name)
            else:
                if found is not None:
                    notes.append((case.name, REPLACED))
                found = _predict_scan(model, scan, results)
                predicted.append(case.name)
            notes += [(case.name, note) for note in found.notes]
        except BadScanError as error:
            bad.append((case.name, str(error)))
        on_case(case.name)
    results.write_volumes()
    return PredictionReport(tuple(predicted), tuple(before), tuple(bad), tuple(notes))


def _is_of(found: Prediction, scan: ScanToPredict) -> bool:
    """Whether nothing is left to do: the same voxels may have come back in another order."""
    return found.scan_id == scan.scan.scan_id and found.original == scan.original


def _check_name(name: str) -> None:
    """Before an hour of work: results are called after the scan, in files and in their text."""
    try:
        taken = len((name + max(ENDINGS, key=len)).encode())
    except UnicodeEncodeError:
        raise BadScanError("its name is not in UTF-8: rename the file") from None
    if taken > LONGEST_NAME_BYTES:
        raise BadScanError(
            f"its results would have names of {taken} bytes, file systems take "
            f"{LONGEST_NAME_BYTES}: rename the file"
        )


def _predict_scan(model: Model, scan: ScanToPredict, results: Results) -> Prediction:
    outcome = predict(model, scan.scan)
    for ending in ENDINGS:
        results.path(scan.name, ending).unlink(missing_ok=True)
    files = [scan.name + ending for ending in (LABELS, CONFIDENCE, OVERLAY)]
    notes = [scan.note] if scan.note is not None else []
    write_volume_like(results.path(scan.name, LABELS), outcome.labels, scan.original)
    write_volume_like(results.path(scan.name, CONFIDENCE), outcome.confidence, scan.original)
    title = f"{scan.name}: {model.title}, not reviewed"
    png = draw_overlay(scan.scan, outcome.labels, outcome.confidence, model.labels, title)
    _write(results.path(scan.name, OVERLAY), png)
    if scan.stack is not None:
        try:
            _write_segmentation(results.path(scan.name, SEGMENTATION), model, scan, outcome)
            files.append(scan.name + SEGMENTATION)
        except BadScanError as error:
            notes.append(str(error))
    prediction = Prediction(
        scan=scan.name,
        scan_id=scan.scan.scan_id,
        original=scan.original,
        predicted_by=results.predicted_by,
        structures=measure_volumes(model, scan.scan, outcome),
        files=tuple(files),
        notes=tuple(notes),
    )
    results.finish(prediction)
    return prediction


def _write_segmentation(path: Path, model: Model, scan: ScanToPredict, outcome: Outcome) -> None:
    assert scan.stack is not None
    try:
        # An extra: hospitals that read DICOM need not write it.
        from client.prediction.segmentation_object import write_segmentation  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("highdicom"):
            raise
        raise BadScanError(
            "no DICOM SEG is written without highdicom: pip install 'oneslice[dicom]', then "
            "predict with a new --out"
        ) from None
    labels = np.ascontiguousarray(from_ras(outcome.labels, scan.original))
    write_segmentation(path, labels, scan.stack, model)


def _write(path: Path, data: bytes) -> None:
    check_room(path.parent, len(data))
    write_atomically(path, lambda unfinished: _write_bytes(unfinished, data))


def _write_bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)
