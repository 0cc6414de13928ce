"""The hospital's log of what it did and sent: each row is chained to the one before it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from client.store.store import Store
from common.errors import StoreError


@dataclass(frozen=True)
class AuditRow:
    """One event. `chain` is the sha256 over the chain of the row before and this row's content."""

    number: int
    time: str
    event: str
    details: str
    chain: str


def write_audit(store: Store, event: str, details: Mapping[str, object]) -> None:
    """Adds a row."""
    text = json.dumps(details, sort_keys=True)
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    with store.connect() as connection:
        query = "SELECT number, chain FROM audit ORDER BY number DESC LIMIT 1"
        last = connection.execute(query).fetchone()
        number, before = (last["number"] + 1, last["chain"]) if last else (1, "")
        chain = _link(before, number, now, event, text)
        connection.execute(
            "INSERT INTO audit VALUES (?, ?, ?, ?, ?)", (number, now, event, text, chain)
        )


def read_audit(store: Store) -> list[AuditRow]:
    """All rows, the oldest first."""
    with store.read() as connection:
        rows = connection.execute("SELECT * FROM audit ORDER BY number").fetchall()
    return [AuditRow(**dict(row)) for row in rows]


def verify_audit(store: Store) -> int:
    """The number of rows, if none was changed, removed from the middle, or put in.

    Raises:
        StoreError: names the first row that does not follow from the one before it.
    """
    before, rows = "", read_audit(store)
    for place, row in enumerate(rows, start=1):
        wanted = _link(before, place, row.time, row.event, row.details)
        if row.number != place or row.chain != wanted:
            raise StoreError(
                f"row {place} of the audit log in {store.folder} does not follow from the row "
                "before it: the log was changed"
            )
        before = row.chain
    return len(rows)


def _link(before: str, number: int, time: str, event: str, details: str) -> str:
    content = "\n".join([before, str(number), time, event, details])
    return hashlib.sha256(content.encode()).hexdigest()
