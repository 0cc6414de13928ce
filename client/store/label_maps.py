"""Label maps of scans, every version, with what each was made from."""

import json
import sqlite3
from dataclasses import dataclass

import numpy as np

from client.store.arrays import array_bytes, load_array, save_array
from client.store.lock import among_others
from client.store.scans import find_scan
from client.store.store import Store
from common.errors import StoreError
from common.scans import LabelMap


@dataclass(frozen=True)
class MadeFrom:
    """What a label map was made from.

    Attributes:
        origin: digest of the painted slices, the settings and the correspondence network.
        federation: whose settings these were.
        round: the round whose incoming segmenter had a part in it; 0: none had.
        score: the federation's mean Dice on held-back slices, of the round before, that let it in.
    """

    origin: str
    federation: str
    round: int = 0
    score: float = 0.0


def save_label_map(store: Store, scan_id: str, labels: LabelMap, made_from: MadeFrom) -> int:
    """Adds a version; returns its number."""
    with among_others(store):
        keys = (
            save_array(store, labels.soft.astype(np.float16)),
            save_array(store, labels.weight.astype(np.float16)),
            save_array(store, labels.expert),
        )
        return _insert(store, scan_id, labels, made_from, keys)


def _insert(
    store: Store, scan_id: str, labels: LabelMap, made_from: MadeFrom, keys: tuple[str, str, str]
) -> int:
    with store.connect() as connection:
        query = "SELECT COALESCE(MAX(version), 0) FROM label_maps WHERE scan_id = ?"
        version = 1 + int(connection.execute(query, (scan_id,)).fetchone()[0])
        connection.execute(
            "INSERT INTO label_maps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                scan_id,
                version,
                made_from.origin,
                made_from.federation,
                made_from.round,
                made_from.score,
                labels.source,
                json.dumps(labels.classes),
                json.dumps(labels.spread),
                *keys,
            ),
        )
    return version


def adopt_label_map(store: Store, scan_id: str, made_from: MadeFrom) -> bool:
    """Adds one that was spread from the same, for whomever, as a version; False if there is none.

    Federations with the same settings, or a plan that another one extends, make the same.
    """
    query = (
        "INSERT INTO label_maps SELECT scan_id, (SELECT MAX(version) + 1 FROM label_maps AS every "
        "WHERE every.scan_id = same.scan_id), origin, ?, 0, 0, source, classes, spread, soft_key, "
        "weight_key, expert_key FROM label_maps AS same "
        "WHERE scan_id = ? AND origin = ? AND round = 0 LIMIT 1"
    )
    with among_others(store), store.connect() as connection:
        values = (made_from.federation, scan_id, made_from.origin)
        return connection.execute(query, values).rowcount == 1


def find_label_map(
    store: Store, scan_id: str, federation: str, *, joined: bool = True
) -> MadeFrom | None:
    """What a federation's newest label map was made from; None if there is none.

    Others have settings of their own: each federation's label maps are made for it alone. Those
    that a segmenter joined count only if `joined`.
    """
    row = _newest(store, scan_id, federation, joined)
    if row is None:
        return None
    return MadeFrom(row["origin"], row["federation"], row["round"], row["score"])


def load_label_map(store: Store, scan_id: str, federation: str, *, joined: bool = True) -> LabelMap:
    """The label map that `find_label_map` tells of; its arrays are memory-mapped half floats.

    Raises:
        StoreError: the scan has none.
    """
    row = _newest(store, scan_id, federation, joined)
    if row is None:
        raise StoreError(f"scan {scan_id} has no label map: annotate a slice of it first")
    return LabelMap(
        classes=tuple(json.loads(row["classes"])),
        soft=load_array(store, row["soft_key"]),
        weight=load_array(store, row["weight_key"]),
        expert=load_array(store, row["expert_key"]),
        spread=tuple(json.loads(row["spread"])),
        source=row["source"],
    )


def training_bytes(store: Store, scan_id: str, federation: str) -> int:
    """What a scan takes of the disk: its image, and the label map that `load_label_map` loads.

    Raises:
        StoreError: there is no such scan, or an array is gone.
    """
    keys = [find_scan(store, scan_id).image_key]
    row = _newest(store, scan_id, federation, joined=True)
    if row is not None:
        keys += [row["soft_key"], row["weight_key"], row["expert_key"]]
    return sum(array_bytes(store, key) for key in keys)


def drop_joined(store: Store, federation: str, from_round: int) -> None:
    """Forgets those that a federation's segmenter joined, from a round (1 or later) on.

    A round that is run again must not find what an earlier try of it, or a later round, had made.
    """
    with store.connect() as connection:
        query = "DELETE FROM label_maps WHERE federation = ? AND round >= ?"
        connection.execute(query, (federation, from_round))


def _newest(store: Store, scan_id: str, federation: str, joined: bool) -> sqlite3.Row | None:
    with store.read() as connection:
        query = (
            "SELECT * FROM label_maps WHERE scan_id = ? AND federation = ? AND (round = 0 OR ?) "
            "ORDER BY version DESC LIMIT 1"
        )
        values = (scan_id, federation, joined)
        row: sqlite3.Row | None = connection.execute(query, values).fetchone()
    return row
