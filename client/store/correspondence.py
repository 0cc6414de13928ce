"""The hospital's own correspondence networks: weights, how far trained, and on which scans."""

import json
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from client.store.arrays import load_array, save_array
from client.store.lock import among_others
from client.store.store import Store


@dataclass(frozen=True)
class Learned:
    """A network after a part of its training.

    Attributes:
        part: how many parts are done.
        scans: the scan_ids that it saw, ascending.
        weights: all of them in one row.
    """

    part: int
    scans: tuple[str, ...]
    weights: Float[np.ndarray, "w"]


def save_learned(store: Store, settings: str, learned: Learned) -> None:
    """Keeps the network of these settings (a digest) after a part."""
    with among_others(store), store.connect() as connection:
        key = save_array(store, learned.weights)
        connection.execute(
            "INSERT OR REPLACE INTO correspondence VALUES (?, ?, ?, ?)",
            (settings, learned.part, json.dumps(learned.scans), key),
        )


def load_learned(store: Store, settings: str) -> list[Learned]:
    """The networks of these settings, as they were kept, the newest last."""
    with store.read() as connection:
        query = "SELECT * FROM correspondence WHERE settings = ? ORDER BY rowid"
        rows = connection.execute(query, (settings,)).fetchall()
    return [
        Learned(
            row["part"],
            tuple(json.loads(row["scans"])),
            np.array(load_array(store, row["weights_key"])),
        )
        for row in rows
    ]
