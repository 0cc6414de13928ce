"""Painted slices, every version of them."""

import json
import sqlite3
from dataclasses import dataclass

import numpy as np

from client.store.arrays import load_array, save_array
from client.store.clock import now
from client.store.lock import among_others
from client.store.scans import find_scan
from client.store.store import Store
from common.errors import StoreError
from common.scans import SliceAnnotation, SliceRef


@dataclass(frozen=True)
class SliceVersion:
    """One version of a painted slice without its mask; `present` are the labels that it holds."""

    ref: SliceRef
    version: int
    annotator: str
    seconds_spent: float
    time: str
    present: tuple[int, ...]


def save_annotation(store: Store, annotation: SliceAnnotation) -> int:
    """Adds a version of the slice; returns its number, 1 for the first.

    Raises:
        StoreError: the scan is unknown, the slice lies outside it, or the mask does not fit.
    """
    check_mask(store, annotation)
    with among_others(store):
        mask_key = save_array(store, annotation.mask)
        with store.connect() as connection:
            return insert_annotation(connection, annotation, mask_key)


def check_mask(store: Store, annotation: SliceAnnotation) -> None:
    """Refuses a mask that is none of its slice.

    Raises:
        StoreError: the scan is unknown, the slice lies outside it, or the mask does not fit.
    """
    ref = annotation.ref
    shape = find_scan(store, ref.scan_id).geometry.shape
    if ref.axis not in range(len(shape)):
        raise StoreError(f"{ref.scan_id} has the axes 0, 1 and 2, not {ref.axis}")
    if not 0 <= ref.index < shape[ref.axis]:
        raise StoreError(
            f"{ref.scan_id} has slices 0 to {shape[ref.axis] - 1} along axis {ref.axis}, "
            f"not {ref.index}"
        )
    wanted = tuple(n for axis, n in enumerate(shape) if axis != ref.axis)
    if annotation.mask.shape != wanted:
        raise StoreError(
            f"slice {ref.index} of {ref.scan_id} has {wanted} pixels, the mask "
            f"{annotation.mask.shape}"
        )
    odd = set(np.unique(annotation.mask).tolist()) - {0, *annotation.looked_for}
    if odd:
        raise StoreError(
            f"the mask holds labels {sorted(odd)} that were not looked for; expected 0 and "
            f"{list(annotation.looked_for)}"
        )


def insert_annotation(
    connection: sqlite3.Connection, annotation: SliceAnnotation, mask_key: str
) -> int:
    """Adds a version's row; the mask must be checked and stored already. Returns its number."""
    place = (annotation.ref.scan_id, annotation.ref.axis, annotation.ref.index)
    query = (
        "SELECT COALESCE(MAX(version), 0) FROM annotations "
        "WHERE scan_id = ? AND axis = ? AND slice = ?"
    )
    version = 1 + int(connection.execute(query, place).fetchone()[0])
    connection.execute(
        "INSERT INTO annotations VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            *place,
            version,
            mask_key,
            json.dumps(annotation.looked_for),
            json.dumps(sorted(set(np.unique(annotation.mask).tolist()) - {0})),
            annotation.annotator,
            annotation.seconds_spent,
            now(),
        ),
    )
    return version


def latest_annotations(store: Store, scan_id: str) -> list[SliceAnnotation]:
    """The newest version of each painted slice of a scan, by axis and index."""
    return [_from_row(store, row) for row in _newest_rows(store, scan_id)]


def painted_slices(store: Store, scan_id: str) -> list[SliceVersion]:
    """The newest version of each painted slice of a scan, by axis and index; reads no mask."""
    return [_version_of(row) for row in _newest_rows(store, scan_id)]


def slice_versions(store: Store, ref: SliceRef) -> list[SliceVersion]:
    """Every version of one slice, the oldest first; reads no mask."""
    return [_version_of(row) for row in _rows_of(store, ref)]


def load_version(store: Store, ref: SliceRef, version: int) -> SliceAnnotation | None:
    """One version of one slice; None if there is none of that number."""
    found = [row for row in _rows_of(store, ref) if row["version"] == version]
    return _from_row(store, found[0]) if found else None


def all_versions(store: Store, ref: SliceRef) -> list[SliceAnnotation]:
    """Every version of one slice, the oldest first."""
    return [_from_row(store, row) for row in _rows_of(store, ref)]


def annotation_effort(store: Store, task: str | None = None) -> tuple[int, float]:
    """How many slices are painted, of a task or in all, and the seconds spent on all versions."""
    query = (
        "SELECT COUNT(DISTINCT scan_id || ' ' || axis || ' ' || slice), "
        "COALESCE(SUM(seconds_spent), 0) "
        "FROM annotations"
    )
    if task is not None:
        query += " JOIN scans USING (scan_id) WHERE task = ?"
    with store.read() as connection:
        slices, seconds = connection.execute(query, () if task is None else (task,)).fetchone()
    return int(slices), float(seconds)


def _newest_rows(store: Store, scan_id: str) -> list[sqlite3.Row]:
    query = (
        "SELECT *, MAX(version) FROM annotations WHERE scan_id = ? "
        "GROUP BY axis, slice ORDER BY axis, slice"
    )
    with store.read() as connection:
        return connection.execute(query, (scan_id,)).fetchall()


def _rows_of(store: Store, ref: SliceRef) -> list[sqlite3.Row]:
    with store.read() as connection:
        return connection.execute(
            "SELECT * FROM annotations WHERE scan_id = ? AND axis = ? AND slice = ? "
            "ORDER BY version",
            (ref.scan_id, ref.axis, ref.index),
        ).fetchall()


def _version_of(row: sqlite3.Row) -> SliceVersion:
    return SliceVersion(
        ref=SliceRef(row["scan_id"], row["axis"], row["slice"]),
        version=row["version"],
        annotator=row["annotator"],
        seconds_spent=row["seconds_spent"],
        time=row["time"],
        present=tuple(json.loads(row["present"])),
    )


def _from_row(store: Store, row: sqlite3.Row) -> SliceAnnotation:
    return SliceAnnotation(
        ref=SliceRef(row["scan_id"], row["axis"], row["slice"]),
        mask=np.array(load_array(store, row["mask_key"])),
        looked_for=tuple(json.loads(row["looked_for"])),
        annotator=row["annotator"],
        seconds_spent=row["seconds_spent"],
    )
