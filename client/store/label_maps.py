"""Label maps of scans, every version, with what each was made from."""

import json

import numpy as np

from client.store.arrays import load_array, save_array
from client.store.store import Store
from common.errors import StoreError
from common.scans import LabelMap


def save_label_map(store: Store, scan_id: str, labels: LabelMap, origin: str) -> int:
    """Adds a version; `origin` is a digest of what it was made from. Returns its number."""
    keys = (
        save_array(store, labels.soft.astype(np.float16)),
        save_array(store, labels.weight.astype(np.float16)),
        save_array(store, labels.expert),
    )
    with store.connect() as connection:
        query = "SELECT COALESCE(MAX(version), 0) FROM label_maps WHERE scan_id = ?"
        version = 1 + int(connection.execute(query, (scan_id,)).fetchone()[0])
        connection.execute(
            "INSERT INTO label_maps VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                scan_id,
                version,
                origin,
                labels.source,
                json.dumps(labels.classes),
                json.dumps(labels.spread),
                *keys,
            ),
        )
    return version


def label_map_origin(store: Store, scan_id: str) -> str | None:
    """What the newest label map was made from; None if there is none."""
    with store.read() as connection:
        query = "SELECT origin FROM label_maps WHERE scan_id = ? ORDER BY version DESC LIMIT 1"
        row = connection.execute(query, (scan_id,)).fetchone()
    return None if row is None else str(row["origin"])


def load_label_map(store: Store, scan_id: str) -> LabelMap:
    """The newest label map; its arrays are memory-mapped half floats.

    Raises:
        StoreError: the scan has none.
    """
    with store.read() as connection:
        query = "SELECT * FROM label_maps WHERE scan_id = ? ORDER BY version DESC LIMIT 1"
        row = connection.execute(query, (scan_id,)).fetchone()
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
