"""The networks that a hospital trains for its student and never sends: one file of weights a round.

They belong to the state after a round, and go when that round is done again. Those of the last
rounds alone are kept; what is lost is learnt anew.
"""

import logging
import sqlite3

import numpy as np

from client.store.arrays import is_whole, load_array, save_array
from client.store.store import Store

log = logging.getLogger(__name__)
KEPT = 2


def save_own_networks(store: Store, weights: bytes) -> str | None:
    """The key of the stored weights, which no row points to yet; None: there are none."""
    return save_array(store, np.frombuffer(weights, dtype=np.uint8)) if weights else None


def read_own_networks(store: Store, federation: str, round_number: int) -> bytes:
    """The weights after a round; no bytes: none were kept, or the log says that they are lost."""
    query = "SELECT weights_key AS k FROM own_networks WHERE federation = ? AND round = ?"
    with store.read() as connection:
        row = connection.execute(query, (federation, round_number)).fetchone()
    if row is None:
        return b""
    if not is_whole(store, row["k"], look_inside=True):
        log.warning("%s lost networks of its own: they are learnt anew", store.folder)
        return b""
    return load_array(store, row["k"]).tobytes()


def keep_own_networks(
    connection: sqlite3.Connection, federation: str, round_number: int, key: str
) -> None:
    """Has a committed round point to its weights, and rounds long past let go of theirs."""
    connection.execute("INSERT INTO own_networks VALUES (?, ?, ?)", (federation, round_number, key))
    connection.execute(
        "DELETE FROM own_networks WHERE federation = ? AND round NOT IN "
        "(SELECT round FROM own_networks WHERE federation = ? ORDER BY round DESC LIMIT ?)",
        (federation, federation, KEPT),
    )


def own_network_keys(connection: sqlite3.Connection) -> set[str]:
    """Of the weights of all rounds that still have some."""
    return {row["k"] for row in connection.execute("SELECT weights_key AS k FROM own_networks")}


def drop_own_networks(connection: sqlite3.Connection) -> int:
    """Lets go of all, since a scan that they may have seen was withdrawn; how many there were.

    Of all federations: one that goes on from another began with the networks of that one.
    """
    return connection.execute("DELETE FROM own_networks").rowcount
