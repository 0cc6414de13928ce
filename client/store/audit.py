"""The hospital's log of what it did and sent: each row is chained to the one before it.

The newest row's number and chain, the head, are kept in a second place, a small file beside the
catalog: rows cut off at the end leave a chain that holds, but not one that ends at the head. Nobody
who may write to both is kept from making up a new log with a new head; a head that was noted
elsewhere (on paper, in a letter) shows that too.

A row and its head cannot be written in one stroke. The file names the row that is about to be
written before it is, so that a process killed in between is told apart from a log that was cut.
"""

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from client.store.atomic_files import write_atomically
from client.store.store import Store
from common.errors import StoreError

BROKEN = "log_broken"
SENDING, FAILED = "sending", "failed"  # what left: a checked reply, or the fixed one of a failure


@dataclass(frozen=True)
class AuditRow:
    """One event. `chain` is the sha256 over the chain of the row before and this row's content."""

    number: int
    time: str
    event: str
    details: str
    chain: str


@dataclass(frozen=True)
class Head:
    """Where the log ends; number 0 and no chain before the first row."""

    number: int = 0
    chain: str = ""

    def __str__(self) -> str:
        return f"{self.number}:{self.chain}"


def write_audit(store: Store, event: str, details: Mapping[str, object]) -> None:
    """Adds a row."""
    with store.connect() as connection:
        add_row(store, connection, event, details)
    settle_head(store)


def add_row(
    store: Store, connection: sqlite3.Connection, event: str, details: Mapping[str, object]
) -> None:
    """Adds a row in a transaction of the caller's, who calls `settle_head` after it.

    A log that does not end where its head says is given a row that tells so first.
    """
    last, kept = _last_of(connection), _read_heads(store)
    if kept is None or last not in kept:
        known = "no head" if kept is None else f"a head at {kept[0]}"
        broken = {"expected": known, "found": f"a log that ends at {last}"}
        last = _add(connection, last, BROKEN, broken)
    after = _add(connection, last, event, details)
    _write_heads(store, (_last_committed(store), after))


def settle_head(store: Store) -> None:
    """Has the head's file say where the log ends, now that the row is committed."""
    # In a transaction, so that no other process is between its row and its head.
    with store.connect() as connection:
        _write_heads(store, (_last_of(connection),))


def read_audit(store: Store) -> list[AuditRow]:
    """All rows, the oldest first."""
    with store.read() as connection:
        rows = connection.execute("SELECT * FROM audit ORDER BY number").fetchall()
    return [AuditRow(**dict(row)) for row in rows]


def newest_row(store: Store, event: str) -> AuditRow | None:
    """The newest row of a kind; None if there is none."""
    with store.read() as connection:
        query = "SELECT * FROM audit WHERE event = ? ORDER BY number DESC LIMIT 1"
        row = connection.execute(query, (event,)).fetchone()
    return None if row is None else AuditRow(**dict(row))


def count_models_sent(store: Store, federation: str) -> int:
    """How many different models have left for a federation; one that was sent again counts once."""
    query = (
        "SELECT COUNT(DISTINCT json_extract(details, '$.digest')) FROM audit WHERE event = ? AND "
        "json_extract(details, '$.federation') = ? AND json_extract(details, '$.tensors') != '{}'"
    )
    with store.read() as connection:
        count: int = connection.execute(query, (SENDING, federation)).fetchone()[0]
    return count


def newest_time(store: Store) -> str | None:
    """The time of the row with the latest one; None without rows."""
    with store.read() as connection:
        time: str | None = connection.execute("SELECT MAX(time) FROM audit").fetchone()[0]
    return time


def verify_audit(store: Store, noted: str | None = None) -> Head:
    """Where the log ends, if no row was changed, removed, put in or cut off.

    Args:
        store: the hospital's.
        noted: a head "NUMBER:CHAIN" that was printed earlier and kept elsewhere; the log must still
            go through it.

    Raises:
        StoreError: names the first row that does not follow from the one before it, or says that
            the log does not end at its head.
    """
    before, at_noted = Head(), noted is None
    # In a transaction: the rows and their head are read as they stand between two writers.
    with store.connect() as connection:
        kept = _read_heads(store)
        rows = connection.execute("SELECT * FROM audit ORDER BY number").fetchall()
    for place, row in enumerate(rows, start=1):
        wanted = _link(before.chain, place, row["time"], row["event"], row["details"])
        if row["number"] != place or row["chain"] != wanted:
            raise _changed(
                store, f"row {place} of the audit log does not follow from the row before it"
            )
        if row["event"] == BROKEN:
            raise _changed(
                store, f"row {place} of the audit log tells of a break before it: {row['details']}"
            )
        before = Head(row["number"], row["chain"])
        at_noted = at_noted or str(before) == noted
    if kept is None:
        raise _changed(store, f"the audit log has {before.number} rows and its head is gone")
    if before not in kept:
        raise _changed(
            store,
            f"the audit log ends at row {before.number}, its head is row {kept[0].number}: rows "
            "were cut off or put in at the end",
        )
    if not at_noted:
        raise _changed(store, f"the audit log does not go through the noted head {noted}")
    return before


def _changed(store: Store, text: str) -> StoreError:
    return StoreError(
        f"{text}; the log in {store.folder} was changed: keep the folder as it is and find out who "
        "had access to it"
    )


def _add(
    connection: sqlite3.Connection, last: Head, event: str, details: Mapping[str, object]
) -> Head:
    text = json.dumps(details, sort_keys=True)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    number = last.number + 1
    chain = _link(last.chain, number, now, event, text)
    row = (number, now, event, text, chain)
    connection.execute("INSERT INTO audit VALUES (?, ?, ?, ?, ?)", row)
    return Head(number, chain)


def _last_of(connection: sqlite3.Connection) -> Head:
    query = "SELECT number, chain FROM audit ORDER BY number DESC LIMIT 1"
    row = connection.execute(query).fetchone()
    return Head(row["number"], row["chain"]) if row else Head()


def _last_committed(store: Store) -> Head:
    with store.read() as connection:
        return _last_of(connection)


def _head_file(store: Store) -> Path:
    return store.folder / "audit.head"


def _read_heads(store: Store) -> tuple[Head, ...] | None:
    """Where the log may end: at its head or, when that is about to be written, one row on.

    None if the file is missing or is none of ours; a log without a row needs no file.
    """
    try:
        values = json.loads(_head_file(store).read_text(encoding="utf-8"))
        return tuple(Head(one["number"], one["chain"]) for one in values)
    except FileNotFoundError:
        return (Head(),) if _last_committed(store).number == 0 else None
    except (ValueError, KeyError, TypeError):
        return None


def _write_heads(store: Store, heads: tuple[Head, ...]) -> None:
    text = json.dumps([asdict(head) for head in heads])
    write_atomically(_head_file(store), lambda path: _write_text(path, text))


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _link(before: str, number: int, time: str, event: str, details: str) -> str:
    content = "\n".join([before, str(number), time, event, details])
    return hashlib.sha256(content.encode()).hexdigest()
