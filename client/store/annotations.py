"""Painted slices, every version of them."""

import json
import sqlite3
from datetime import UTC, datetime

import numpy as np

from client.store.arrays import load_array, save_array
from client.store.scans import find_scan
from client.store.store import Store
from common.errors import StoreError
from common.scans import SliceAnnotation, SliceRef


def save_annotation(store: Store, annotation: SliceAnnotation) -> int:
    """Adds a version of the slice; returns its number, 1 for the first.

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
    mask_key = save_array(store, annotation.mask)
    place = (ref.scan_id, ref.axis, ref.index)
    with store.connect() as connection:
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
                datetime.now(UTC).isoformat(timespec="milliseconds"),
            ),
        )
    return version


def latest_annotations(store: Store, scan_id: str) -> list[SliceAnnotation]:
    """The newest version of each painted slice of a scan, by axis and index."""
    with store.read() as connection:
        rows = connection.execute(
            "SELECT *, MAX(version) FROM annotations WHERE scan_id = ? "
            "GROUP BY axis, slice ORDER BY axis, slice",
            (scan_id,),
        ).fetchall()
    return [_from_row(store, row) for row in rows]


def all_versions(store: Store, ref: SliceRef) -> list[SliceAnnotation]:
    """Every version of one slice, the oldest first."""
    with store.read() as connection:
        rows = connection.execute(
            "SELECT * FROM annotations WHERE scan_id = ? AND axis = ? AND slice = ? "
            "ORDER BY version",
            (ref.scan_id, ref.axis, ref.index),
        ).fetchall()
    return [_from_row(store, row) for row in rows]


def annotation_effort(store: Store) -> tuple[int, float]:
    """How many slices are painted, and the seconds spent on all their versions."""
    with store.read() as connection:
        painted = "SELECT COUNT(*) FROM (SELECT DISTINCT scan_id, axis, slice FROM annotations)"
        spent = "SELECT COALESCE(SUM(seconds_spent), 0) FROM annotations"
        slices = int(connection.execute(painted).fetchone()[0])
        return slices, float(connection.execute(spent).fetchone()[0])


def _from_row(store: Store, row: sqlite3.Row) -> SliceAnnotation:
    return SliceAnnotation(
        ref=SliceRef(row["scan_id"], row["axis"], row["slice"]),
        mask=np.array(load_array(store, row["mask_key"])),
        looked_for=tuple(json.loads(row["looked_for"])),
        annotator=row["annotator"],
        seconds_spent=row["seconds_spent"],
    )
