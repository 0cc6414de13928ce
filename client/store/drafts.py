"""Slices that somebody is painting: every stroke is a version, until the slice is submitted.

A stroke is one row, written in one transaction and flushed to the disk before it is acknowledged.
Each annotator has drafts of their own: two people who paint one slice never overwrite each other.
"""

import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8

from client.store.annotations import check_mask, insert_annotation
from client.store.arrays import save_array
from client.store.clock import now
from client.store.lock import among_others
from client.store.scans import find_scan
from client.store.store import Store
from common.errors import StoreError
from common.scans import SliceAnnotation, SliceRef

# A mask is mostly zeros: the quickest level packs 512 x 512 pixels in about a millisecond.
PACKING_LEVEL = 1


class OutdatedDraftError(StoreError):
    """The draft was changed elsewhere. `version` is the newest; 0: there is none any more."""

    def __init__(self, version: int, continues: int) -> None:
        """With both versions."""
        super().__init__(
            f"expected a change of version {version}, the newest draft of this slice, got one of "
            f"version {continues}: load the newest draft and paint on that"
        )
        self.version = version


@dataclass(frozen=True)
class Draft:
    """One version of a slice that is being painted; `seconds_spent` at the brush so far."""

    ref: SliceRef
    version: int
    seconds_spent: float
    time: str


def save_draft(
    store: Store,
    ref: SliceRef,
    annotator: str,
    mask: UInt8[np.ndarray, "rows columns"],
    *,
    continues: Sequence[int],
    seconds_spent: float,
) -> int:
    """Adds a version of the annotator's own draft; returns its number, 1 for the first.

    Args:
        store: the hospital's.
        ref: the slice.
        annotator: whose draft.
        mask: label index per pixel.
        continues: the version that was painted on; 0 for the first. A page that closes and does
            not know whether its save before this one went through names both versions.
        seconds_spent: at the brush, all versions together.

    Raises:
        OutdatedDraftError: the newest version is another one.
    """
    packed = zlib.compress(np.ascontiguousarray(mask).tobytes(), PACKING_LEVEL)
    with store.connect() as connection:
        newest, _ = _newest(connection, ref, annotator)
        if newest not in continues:
            raise OutdatedDraftError(newest, continues[0])
        connection.execute(
            "INSERT INTO drafts VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (*_place(ref, annotator), newest + 1, packed, seconds_spent, now()),
        )
    return newest + 1


def load_draft(
    store: Store, ref: SliceRef, annotator: str
) -> tuple[Draft, UInt8[np.ndarray, "rows columns"]] | None:
    """The newest version of the annotator's own draft, with its mask; None if there is none."""
    shape = find_scan(store, ref.scan_id).geometry.shape
    rows, columns = (n for axis, n in enumerate(shape) if axis != ref.axis)
    with store.read() as connection:
        row = connection.execute(
            "SELECT * FROM drafts WHERE scan_id = ? AND axis = ? AND slice = ? AND annotator = ? "
            "ORDER BY version DESC LIMIT 1",
            _place(ref, annotator),
        ).fetchone()
    if row is None:
        return None
    mask = np.frombuffer(zlib.decompress(row["mask"]), np.uint8).reshape(rows, columns)
    return _from_row(row), mask


def list_drafts(store: Store, scan_id: str, annotator: str) -> list[Draft]:
    """The newest version of each of the annotator's drafts of a scan, by axis and index."""
    with store.read() as connection:
        rows = connection.execute(
            "SELECT scan_id, axis, slice, MAX(version) AS version, seconds_spent, time FROM drafts "
            "WHERE scan_id = ? AND annotator = ? GROUP BY axis, slice ORDER BY axis, slice",
            (scan_id, annotator),
        ).fetchall()
    return [_from_row(row) for row in rows]


def drop_draft(store: Store, ref: SliceRef, annotator: str) -> None:
    """Forgets all versions of the annotator's draft of a slice."""
    with store.connect() as connection:
        _drop(connection, ref, annotator)


def submit_slice(store: Store, annotation: SliceAnnotation, draft_version: int) -> int:
    """Makes a slice an annotation and forgets its drafts, both or neither; returns its version.

    Args:
        store: the hospital's.
        annotation: what was painted.
        draft_version: the annotator's newest draft, of the same mask; 0: there is none.

    Raises:
        OutdatedDraftError: the newest draft is another one, or holds another mask.
        StoreError: the scan is unknown, the slice lies outside it, or the mask does not fit.
    """
    check_mask(store, annotation)
    with among_others(store):
        # The file first and the rows last: a process killed in between has submitted nothing.
        mask_key = save_array(store, annotation.mask)
        return _submit(store, annotation, draft_version, mask_key)


def _submit(store: Store, annotation: SliceAnnotation, draft_version: int, mask_key: str) -> int:
    ref, annotator = annotation.ref, annotation.annotator
    with store.connect() as connection:
        newest, packed = _newest(connection, ref, annotator)
        if newest != draft_version:
            raise OutdatedDraftError(newest, draft_version)
        if packed is not None and zlib.decompress(packed) != annotation.mask.tobytes():
            raise OutdatedDraftError(draft_version, draft_version)
        version = insert_annotation(connection, annotation, mask_key)
        _drop(connection, ref, annotator)
    return version


def _newest(
    connection: sqlite3.Connection, ref: SliceRef, annotator: str
) -> tuple[int, bytes | None]:
    """Version and packed mask of the newest draft; 0 and None if there is none."""
    row = connection.execute(
        "SELECT version, mask FROM drafts WHERE scan_id = ? AND axis = ? AND slice = ? "
        "AND annotator = ? ORDER BY version DESC LIMIT 1",
        _place(ref, annotator),
    ).fetchone()
    return (0, None) if row is None else (int(row["version"]), bytes(row["mask"]))


def _drop(connection: sqlite3.Connection, ref: SliceRef, annotator: str) -> None:
    connection.execute(
        "DELETE FROM drafts WHERE scan_id = ? AND axis = ? AND slice = ? AND annotator = ?",
        _place(ref, annotator),
    )


def _place(ref: SliceRef, annotator: str) -> tuple[str, int, int, str]:
    return ref.scan_id, ref.axis, ref.index, annotator


def _from_row(row: sqlite3.Row) -> Draft:
    ref = SliceRef(row["scan_id"], row["axis"], row["slice"])
    return Draft(ref, row["version"], row["seconds_spent"], row["time"])
