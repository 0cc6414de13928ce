"""Makes slice annotations of a mask that was painted in another program."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from client.annotation.match_segments import LEFT_OUT, match_segments
from client.annotation.painted_files import PaintedFile, Segment, read_painted_volume
from client.annotation.same_grid import lay_on
from client.store.annotations import save_annotation
from client.store.audit import write_audit
from client.store.dicom_series import may_be_dicom
from client.store.identities import find_identity
from client.store.local_names import save_local_names
from client.store.scans import CatalogScan, find_scan, scans_of_case
from client.store.store import Store
from client.store.volume_files import SUFFIXES
from common.errors import BadScanError, SettingsError, StoreError
from common.plan import NAME_PATTERN, FederationPlan, Task
from common.scans import Geometry, SliceAnnotation, SliceRef


@dataclass(frozen=True)
class ImportedSlice:
    """One annotation that was saved: its slice, its version, and pixels by label index."""

    ref: SliceRef
    version: int
    pixels: dict[int, int]


@dataclass(frozen=True)
class Wanted:
    """What is to be taken of a painted file.

    Attributes:
        annotator: pseudonym of who painted.
        told: which thing in the file is which label, as `read_map` gives it.
        index: the slice; none: the only one that is painted.
        every: all painted slices instead.
    """

    annotator: str
    told: Mapping[str, int] = field(default_factory=dict)
    index: int | None = None
    every: bool = False


def import_mask(
    store: Store,
    plan: FederationPlan,
    path: Path,
    scan_name: str,
    wanted: Wanted,
) -> list[ImportedSlice]:
    """Saves painted slices along the task's axis as annotations; keeps what the file calls labels.

    All classes of the task count as looked for. The time at the brush is not known and counts as 0.

    Args:
        store: the hospital's.
        plan: with the label dictionary.
        path: NIfTI, NRRD, MHA, or DICOM SEG.
        scan_name: a scan_id, or the case it came as.
        wanted: which slices, as which labels, in whose name.

    Raises:
        StoreError: no such scan.
        BadScanError: the file cannot be read, is of another patient or not on the scan's grid, or a
            pixel is painted twice.
        LabelDictionaryError: it holds what the plan has no label for.
        SettingsError: no slice is painted or meant, or it is not said which, or the name is none.
    """
    _check_annotator(wanted.annotator)
    scan = _find(store, scan_name)
    task = _task_of(plan, scan)
    painted = read_painted(path)
    _check_patient(store, scan, painted)
    voxels = _count(painted)
    index_of = match_segments(voxels, wanted.told, plan, task)
    labels, is_twice = _lay_out(painted, index_of, scan.geometry)
    masks = []
    for index in _choose(labels, task.axis, wanted):
        ref = SliceRef(scan.scan_id, task.axis, index)
        num_twice = int(np.count_nonzero(is_twice[ref.selection]))
        if num_twice:
            raise BadScanError(
                f"slice {index}: {num_twice} pixels are painted as two of the plan's labels; "
                "expected one: repaint, or leave one out with --map NAME=0"
            )
        masks.append((ref, np.ascontiguousarray(labels[ref.selection])))
    looked_for = plan.class_indexes(task)
    saved = [
        _save(store, SliceAnnotation(ref, mask, looked_for, wanted.annotator, 0.0))
        for ref, mask in masks
    ]
    taken = [one for one, index in index_of.items() if voxels[one] and index != LEFT_OUT]
    called = [(index_of[one], one.value, one.name or "") for one in taken]
    save_local_names(store, scan.scan_id, called)
    return saved


def _check_annotator(name: str) -> None:
    if re.fullmatch(NAME_PATTERN, name) is None:
        raise SettingsError(
            f"annotator {name!r}: expected up to 48 letters, digits, - and _, the first a letter "
            "or digit"
        )


def _find(store: Store, name: str) -> CatalogScan:
    named = scans_of_case(store, name)
    if len(named) > 1:
        ids = ", ".join(f"{scan.scan_id} (task {scan.task})" for scan in named)
        raise StoreError(f"{name!r} names {len(named)} scans: say which by its id: {ids}")
    return named[0] if named else find_scan(store, name)


def _task_of(plan: FederationPlan, scan: CatalogScan) -> Task:
    if scan.task not in [task.name for task in plan.tasks]:
        names = ", ".join(task.name for task in plan.tasks)
        raise SettingsError(
            f"{scan.scan_id} serves the task {scan.task!r}; the plan has the tasks {names}"
        )
    return plan.task_named(scan.task)


def read_painted(path: Path) -> PaintedFile:
    """What is painted in a file of any of the formats.

    Raises:
        SettingsError: there is no such file, or the extra `dicom` is not installed.
        BadScanError: it cannot be read.
    """
    if not path.is_file():
        raise SettingsError(f"expected a painted file at {path}, found none")
    if path.name.endswith(SUFFIXES):
        return read_painted_volume(path)
    if not may_be_dicom(path):
        endings = ", ".join(SUFFIXES)
        raise BadScanError(f"expected a DICOM SEG, or a file name ending in {endings}")
    try:
        # An extra: hospitals without DICOM need not have it.
        from client.annotation.dicom_segmentation import read_segmentation  # noqa: PLC0415
    except ModuleNotFoundError:
        raise SettingsError(
            "reading DICOM SEG needs the packages highdicom and pydicom: pip install "
            "'oneslice[dicom]'"
        ) from None
    return read_segmentation(path)


def _check_patient(store: Store, scan: CatalogScan, painted: PaintedFile) -> None:
    identity = find_identity(store, scan.scan_id)
    known = {painted.patient, identity.patient if identity is not None else ""} - {""}
    if len(known) > 1:
        raise BadScanError(f"the mask is another patient's than the scan {scan.scan_id}")


def _count(painted: PaintedFile) -> dict[Segment, int]:
    voxels = dict.fromkeys(painted.segments, 0)
    for block in painted.blocks:
        counts = np.bincount(block.values.ravel(), minlength=256)
        for segment in painted.segments:
            if segment.layer == block.layer:
                voxels[segment] += int(counts[segment.value])
    return voxels


def _lay_out(
    painted: PaintedFile, index_of: Mapping[Segment, int], geometry: Geometry
) -> tuple[UInt8[np.ndarray, "i j k"], np.ndarray]:
    """Label indexes on the scan's voxels, and where two layers say different things."""
    labels = np.zeros(geometry.shape, dtype=np.uint8)
    is_twice = np.zeros(geometry.shape, dtype=bool)
    for block in painted.blocks:
        lookup = np.zeros(256, dtype=np.uint8)
        for segment, index in index_of.items():
            if segment.layer == block.layer and index != LEFT_OUT:
                lookup[segment.value] = index
        new, box = lay_on(geometry, lookup[block.values], block.affine)
        is_twice[box] |= (new > 0) & (labels[box] > 0) & (new != labels[box])
        labels[box] = np.where(new > 0, new, labels[box])
    return labels, is_twice


def _choose(labels: np.ndarray, axis: int, wanted: Wanted) -> Sequence[int]:
    others = tuple(other for other in range(3) if other != axis)
    painted = np.flatnonzero(labels.any(axis=others)).tolist()
    depth = labels.shape[axis]
    if wanted.index is not None:
        if not 0 <= wanted.index < depth:
            raise SettingsError(f"--index {wanted.index}: the scan has slices 0 to {depth - 1}")
        return [wanted.index]
    if not painted:
        raise SettingsError(
            "nothing is painted in this file; to say that a slice shows nothing, name it with "
            "--index"
        )
    if len(painted) > 1 and not wanted.every:
        raise SettingsError(
            f"{len(painted)} slices are painted, {painted[0]} to {painted[-1]}: choose one with "
            "--index, or take all with --all"
        )
    return painted


def _save(store: Store, painted: SliceAnnotation) -> ImportedSlice:
    ref, version = painted.ref, save_annotation(store, painted)
    pixels = {index: int(np.count_nonzero(painted.mask == index)) for index in painted.looked_for}
    place = {"scan": ref.scan_id, "axis": ref.axis, "index": ref.index, "version": version}
    write_audit(store, "imported", {**place, "pixels": pixels})
    return ImportedSlice(ref, version, pixels)
