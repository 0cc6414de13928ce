"""Brings a data set's cases into the store; a bad one is set aside with a reason, never in the way.

A case's arrays are stored first and its row last, in one transaction. A process killed in between
leaves arrays that nobody points to and that the next run finds by their content.
"""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from client.store.arrays import save_array
from client.store.display import make_display
from client.store.identities import save_identity
from client.store.layouts import Case, Dataset
from client.store.lock import among_others
from client.store.normalise import normalise
from client.store.orientation import OriginalGeometry, to_ras
from client.store.scans import CatalogScan, ids_of_volume, insert_scan, refresh_scan
from client.store.store import Store
from client.store.volume_files import RawVolume, read_label, read_volume
from client.store.withdrawn import WithdrawnError, check_not_withdrawn
from common.errors import BadScanError, SettingsError, StoreError
from common.plan import FederationPlan, Task
from common.scans import Geometry

if TYPE_CHECKING:
    from client.store.dicom_volume import DicomScan


@dataclass(frozen=True)
class LabelCount:
    """One label value of a data set: its name, and in how many scans and voxels it was found."""

    value: int
    name: str | None
    scans: int
    voxels: int


@dataclass(frozen=True)
class IngestReport:
    """What became of the cases. `quarantined` holds names and reasons, `notes` names and notes.

    `serve_others` counts those added that another task has, too.
    """

    added: int
    already_known: int
    serve_others: int
    quarantined: tuple[tuple[str, str], ...]
    labels: tuple[LabelCount, ...]
    notes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class ReadCase:
    """A case after all checks.

    Attributes:
        volume_id: pseudonym, from the voxels and their place.
        image: (C, I, J, K), RAS.
        reference: (I, J, K), a full label, where there is one.
        geometry: of `image`.
        original: how it lay in the file.
        dicom: modality and identity, where the files tell them.
    """

    volume_id: str
    image: np.ndarray
    reference: np.ndarray | None
    geometry: Geometry
    original: OriginalGeometry
    dicom: "DicomScan | None" = None


def ingest_cases(
    store: Store,
    dataset: Dataset,
    cases: Sequence[Case],
    *,
    task: Task,
    on_case: Callable[[str], None] | None = None,
    again_allowed: Collection[str] = (),
) -> IngestReport:
    """Reads, checks, normalises and stores the cases for a task.

    The same scan is recognised by its voxels and position, under whatever name it comes again; a
    label or a normalisation that changed is taken over then. For another task it is a scan of its
    own, to be painted for that one. One that was withdrawn is refused unless `again_allowed` names
    its case.

    Raises:
        StoreError: the store cannot be written (a full disk); what was stored stays.
    """
    added, known, shared, bad, notes = 0, 0, 0, [], []
    voxels_found: list[dict[int, int]] = []
    for case in cases:
        try:
            read = read_case(dataset, case)
            with among_others(store):
                is_allowed_again = case.name in again_allowed
                check_not_withdrawn(store, read.volume_id, again_allowed=is_allowed_again)
                _check_modality(read, task)
                is_new, num_others = _keep(store, dataset, case, read, task)
        except WithdrawnError as error:
            # Its name is told, not kept: nothing of it may come back.
            bad.append((case.name, str(error)))
        except BadScanError as error:
            bad.append((case.name, str(error)))
            _set_aside(store, task, case.name, str(error))
        else:
            added, known = added + is_new, known + (not is_new)
            shared += is_new and num_others > 0
            voxels_found.append(_count_voxels(read.reference))
            if read.dicom is not None and read.dicom.note is not None:
                notes.append((case.name, read.dicom.note))
        if on_case is not None:
            on_case(case.name)
    labels = _label_counts(dataset, voxels_found)
    return IngestReport(added, known, shared, tuple(bad), labels, tuple(notes))


def check_channels(dataset: Dataset, plan: FederationPlan) -> None:
    """Refuses a data set whose scans have other channels than the plan's networks take.

    Raises:
        SettingsError: with both numbers.
    """
    if dataset.channels != plan.channels:
        raise SettingsError(
            f"the scans in {dataset.folder} have {dataset.channels} channel(s), the plan's "
            f"networks take {plan.channels}: set `channels` in the plan"
        )


def read_case(dataset: Dataset, case: Case) -> ReadCase:
    """A case's files, checked and turned to RAS.

    Raises:
        BadScanError: a file cannot be used, or a label value is not in the data set's dictionary.
    """
    try:
        dicom = _read_dicom(case)
        volume = dicom.volume if dicom else read_volume(case.images, channels=dataset.channels)
        label = read_label(case.label, volume) if case.label is not None else None
    except OSError as error:
        raise BadScanError(f"cannot be read: {error.strerror or 'no reason is given'}") from None
    image, affine = to_ras(volume.array, volume.affine)
    reference = to_ras(label, volume.affine)[0] if label is not None else None
    if reference is not None and dataset.labels:
        unnamed = sorted(set(np.unique(reference).tolist()) - {0, *dataset.labels})
        if unnamed:
            raise BadScanError(
                f"the label holds the values {unnamed}; the data set's dictionary names "
                f"{dataset.labels}"
            )
    return ReadCase(
        volume_id=_identify(image, affine),
        image=image,
        reference=reference,
        geometry=Geometry(_shape(image), _nested(affine)),
        original=_original(volume),
        dicom=dicom,
    )


def _read_dicom(case: Case) -> "DicomScan | None":
    if case.stack is None:
        return None
    # An extra: hospitals without DICOM need not have pydicom.
    from client.store.dicom_volume import read_stack  # noqa: PLC0415

    return read_stack(case.stack)


def _check_modality(read: ReadCase, task: Task) -> None:
    if read.dicom is not None and read.dicom.modality != task.modality:
        raise BadScanError(
            f"the series is {read.dicom.modality}, the task {task.name!r} takes {task.modality}"
        )


def _keep(
    store: Store, dataset: Dataset, case: Case, read: ReadCase, task: Task
) -> tuple[bool, int]:
    """Stores a case; whether it is new, and how many other tasks it serves."""
    try:
        reference_key = save_array(store, read.reference) if read.reference is not None else None
        image = normalise(read.image, task.modality, task.window_hu)
        stack, display = make_display(read.image, task.axis, task.modality, task.window_hu)
        row = CatalogScan(
            scan_id=read.volume_id,
            case=case.name,
            task=task.name,
            modality=task.modality,
            geometry=read.geometry,
            original=read.original,
            image_key=save_array(store, image),
            reference_key=reference_key,
            label_names=dataset.labels,
            label_voxels=_count_voxels(read.reference),
            display_key=save_array(store, stack),
            display=display,
        )
    except OSError as error:
        raise StoreError(
            f"{store.folder} cannot be written: {error.strerror or error}; what was stored before "
            "is whole: repair the folder and run the same command again"
        ) from error
    with store.connect() as connection:
        connection.executemany(
            "DELETE FROM quarantine WHERE task = ? AND case_name = ?",
            [(task.name, name) for name in (case.name, *case.parts)],
        )
        known = ids_of_volume(connection, read.volume_id)
        if task.name in known:
            row = replace(row, scan_id=known[task.name])
            refresh_scan(connection, row)
        else:
            row = replace(row, scan_id=f"{read.volume_id}-{task.name}") if known else row
            insert_scan(connection, row)
        if read.dicom is not None:
            save_identity(connection, row.scan_id, read.dicom.identity)
    return task.name not in known, len(known.keys() - {task.name})


def _set_aside(store: Store, task: Task, case: str, reason: str) -> None:
    with store.connect() as connection:
        connection.execute(
            "INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?)", (task.name, case, reason)
        )


def _identify(image: np.ndarray, affine: np.ndarray) -> str:
    """A pseudonym from the voxels and where they lie; the same scan always gets the same one."""
    # A copy's affine differs in its last digits (single precision leaves 2e-5 mm at the origin), so
    # numbers count by cells: 0.001 mm for the axes, 0.1 mm for the origin. The shift keeps common
    # values such as 0, 0.5 and 0.9375 away from the borders of the cells.
    cells = np.floor(affine / [1e-3, 1e-3, 1e-3, 0.1] + 1 / np.pi)
    digest = hashlib.sha256(f"{image.shape} {cells.tolist()}".encode())
    digest.update(np.ascontiguousarray(image).data)
    return f"scan-{digest.hexdigest()[:16]}"


def _original(volume: RawVolume) -> OriginalGeometry:
    return OriginalGeometry(_shape(volume.array), _nested(volume.affine))


def _shape(image: np.ndarray) -> tuple[int, int, int]:
    return (int(image.shape[1]), int(image.shape[2]), int(image.shape[3]))


def _nested(affine: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(number) for number in row) for row in affine)


def _count_voxels(reference: np.ndarray | None) -> dict[int, int]:
    if reference is None:
        return {}
    values, counts = np.unique(reference, return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return {value: count for value, count in pairs if value != 0}


def _label_counts(dataset: Dataset, found: list[dict[int, int]]) -> tuple[LabelCount, ...]:
    values = sorted({*dataset.labels, *(value for voxels in found for value in voxels)})
    return tuple(
        LabelCount(
            value=value,
            name=dataset.labels.get(value),
            scans=sum(value in voxels for voxels in found),
            voxels=sum(voxels.get(value, 0) for voxels in found),
        )
        for value in values
    )
