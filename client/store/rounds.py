"""A hospital's state in a federation, one version per round, and the replies it sent."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

from client.store.arrays import remove_array
from client.store.atomic_files import write_atomically
from client.store.own_networks import (
    keep_own_networks,
    own_network_keys,
    read_own_networks,
    save_own_networks,
)
from client.store.store import Store
from client.store.uses import Uses, record_uses, trained_on_withdrawn
from common.plan import Earlier

NOTHING_USED: Uses = MappingProxyType({})
KEPT_REPLIES = 2


@dataclass(frozen=True)
class Remembered:
    """One scan in the replay memory; `group` is what the memory is balanced over."""

    scan_id: str
    task: str
    group: str


@dataclass(frozen=True)
class Memory:
    """What is kept, in order of arrival; what was ever offered, by scan and counted by group."""

    entries: tuple[Remembered, ...] = ()
    seen: Mapping[str, int] = field(default_factory=dict)
    offered: frozenset[str] = frozenset()


@dataclass(frozen=True)
class HospitalState:
    """What a hospital carries from round to round; `tasks_trained` maps a task to its stage.

    `own_networks` are the weights that it trains for itself alone and never sends; no bytes: none.
    """

    federation: str
    round: int
    tasks_trained: Mapping[str, int] = field(default_factory=dict)
    memory: Memory = Memory()
    own_networks: bytes = b""


def load_state(
    store: Store, federation: str, round_number: int, earlier: Earlier | None = None
) -> HospitalState:
    """The state after a round, or after the last one before it that this hospital took part in.

    Before the first it is the state that the `earlier` federation left, which this one goes on
    from; without one there is nothing. The networks of its own are kept of the last two rounds
    alone, and learnt anew where they are lost.
    """
    with store.read() as connection:
        place = (federation, round_number)
        row = connection.execute(
            "SELECT * FROM rounds WHERE federation = ? AND round = ?", place
        ).fetchone()
        entries = connection.execute(
            "SELECT * FROM replay WHERE federation = ? AND round = ? ORDER BY place", place
        ).fetchall()
        newest = _newest_before(connection, federation, round_number)
    if row is None:
        if newest is not None:
            return load_state(store, federation, newest)
        if earlier is not None:
            left = load_state(store, earlier.federation, earlier.round)
            return replace(left, federation=federation)
        return HospitalState(federation, round_number)
    memory = Memory(
        tuple(Remembered(entry["scan_id"], entry["task"], entry["grp"]) for entry in entries),
        json.loads(row["seen"]),
        frozenset(json.loads(row["offered"])),
    )
    own = read_own_networks(store, federation, round_number)
    return HospitalState(federation, round_number, json.loads(row["tasks_trained"]), memory, own)


def commit_round(
    store: Store,
    state: HospitalState,
    digest: str,
    reply: bytes,
    uses: Uses = NOTHING_USED,
    models: bytes | None = None,
) -> None:
    """Keeps the state after a round, with the reply to the request of that digest and what it used.

    `models`: the reply with the whole models in it, where what travels is only their difference
    from what came, which nobody here keeps.

    Files come first and the rows last, in one transaction: a process killed in between has not
    committed. Committing a round again drops what was built on its older version.
    """
    own_key = save_own_networks(store, state.own_networks)
    path = _reply_path(store, state.federation, state.round, digest)
    write_atomically(path, lambda unfinished: _write(unfinished, reply))
    if models is not None:
        write_atomically(_models_path(path), lambda unfinished: _write(unfinished, models))
    place = (state.federation, state.round)
    with store.connect() as connection:
        before = own_network_keys(connection)
        connection.execute("DELETE FROM rounds WHERE federation = ? AND round >= ?", place)
        connection.execute(
            "INSERT INTO rounds VALUES (?, ?, ?, ?, ?, ?)",
            (
                *place,
                json.dumps(dict(state.tasks_trained)),
                json.dumps(dict(state.memory.seen)),
                json.dumps(sorted(state.memory.offered)),
                digest,
            ),
        )
        connection.executemany(
            "INSERT INTO replay VALUES (?, ?, ?, ?, ?, ?)",
            [
                (*place, number, entry.scan_id, entry.task, entry.group)
                for number, entry in enumerate(state.memory.entries)
            ],
        )
        record_uses(connection, state.federation, state.round, uses)
        if own_key is not None:
            keep_own_networks(connection, *place, own_key)
        dropped = before - own_network_keys(connection)
    for key in dropped:
        remove_array(store, key)
    _drop_old_replies(path.parent, state.round)


def find_reply(store: Store, federation: str, round_number: int, digest: str) -> bytes | None:
    """The reply that was committed for this very request, if it is still kept.

    One that was trained on a scan that was withdrawn since is not found: it may not leave any more,
    and the round is trained again without the scan.
    """
    with store.read() as connection:
        query = "SELECT digest FROM rounds WHERE federation = ? AND round = ?"
        row = connection.execute(query, (federation, round_number)).fetchone()
        is_stale = trained_on_withdrawn(connection, federation, round_number)
    path = _reply_path(store, federation, round_number, digest)
    if row is None or row["digest"] != digest or is_stale or not path.exists():
        return None
    return path.read_bytes()


def kept_models(store: Store, federation: str) -> Iterator[tuple[int, bytes]]:
    """The committed rounds whose replies are still kept, with whole models, the newest first."""
    with store.read() as connection:
        query = "SELECT round, digest FROM rounds WHERE federation = ? ORDER BY round DESC"
        rows = connection.execute(query, (federation,)).fetchall()
    for row in rows:
        path = _reply_path(store, federation, row["round"], row["digest"])
        # A round that is committed meanwhile drops the oldest.
        with suppress(FileNotFoundError):
            reply = path.read_bytes()
            whole = _models_path(path)
            yield row["round"], whole.read_bytes() if whole.exists() else reply


def latest_round(store: Store, federation: str) -> int:
    """The newest committed round; 0 if there is none."""
    with store.read() as connection:
        query = "SELECT COALESCE(MAX(round), 0) FROM rounds WHERE federation = ?"
        return int(connection.execute(query, (federation,)).fetchone()[0])


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _newest_before(
    connection: sqlite3.Connection, federation: str, round_number: int
) -> int | None:
    query = "SELECT MAX(round) FROM rounds WHERE federation = ? AND round < ?"
    found = connection.execute(query, (federation, round_number)).fetchone()[0]
    return None if found is None else int(found)


def _drop_old_replies(folder: Path, round_number: int) -> None:
    # Names start with the round; what a killed process left unfinished does not, and goes too.
    kept = range(round_number - KEPT_REPLIES + 1, round_number + 1)
    prefixes = tuple(f"{number:05d}-" for number in kept)
    for path in folder.iterdir():
        if not path.name.startswith(prefixes):
            path.unlink(missing_ok=True)


def _reply_path(store: Store, federation: str, round_number: int, digest: str) -> Path:
    # The digest keeps a reply apart from one to another request for the same round that was killed
    # before its commit.
    return store.folder / "rounds" / federation / f"{round_number:05d}-{digest[:16]}.reply"


def _models_path(reply: Path) -> Path:
    return reply.with_suffix(".models")
