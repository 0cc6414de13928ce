"""Which rounds had which scan in their material: what a withdrawal must be able to tell."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from client.store.scans import ITS_VOLUME, OF_VOLUME
from client.store.store import Store
from common.scans import volume_of

# How a round used its scans: part -> scan_ids. Parts are "trained" (current task), "replayed" (from
# memory), "taught" and "self_learned" (images alone) and "scored" (held back: looked at, never
# trained on).
Uses = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Use:
    """Rounds that follow each other and used a scan in the same way."""

    federation: str
    scan_id: str
    part: str
    first_round: int
    last_round: int


def record_uses(
    connection: sqlite3.Connection, federation: str, round_number: int, uses: Uses
) -> None:
    """Notes what a round used; what an earlier try of it, or a later round, had noted goes."""
    place = (federation, round_number)
    connection.execute("DELETE FROM uses WHERE federation = ? AND first_round >= ?", place)
    connection.execute(
        "UPDATE uses SET last_round = ? WHERE federation = ? AND last_round >= ?",
        (round_number - 1, *place),
    )
    for part, scan_ids in uses.items():
        for scan_id in scan_ids:
            found = connection.execute(
                "UPDATE uses SET last_round = ? "
                "WHERE federation = ? AND scan_id = ? AND part = ? AND last_round = ?",
                (round_number, federation, scan_id, part, round_number - 1),
            )
            if found.rowcount == 0:
                connection.execute(
                    "INSERT INTO uses VALUES (?, ?, ?, ?, ?)",
                    (federation, scan_id, part, round_number, round_number),
                )


def uses_of(connection: sqlite3.Connection, scan_id: str) -> list[Use]:
    """All uses of a scan's volume, for whatever task, by federation and round."""
    query = f"SELECT * FROM uses WHERE {OF_VOLUME} ORDER BY federation, first_round, part, scan_id"
    rows = connection.execute(query, {"volume": volume_of(scan_id)})
    return [Use(**dict(row)) for row in rows]


def trained_on_withdrawn(
    connection: sqlite3.Connection, federation: str, round_number: int
) -> bool:
    """Whether a round trained on a scan whose volume was withdrawn since."""
    used, gone = ITS_VOLUME.format("uses."), ITS_VOLUME.format("withdrawn.")
    query = (
        f"SELECT 1 FROM uses JOIN withdrawn ON {used} = {gone} WHERE federation = ? "
        "AND part <> 'scored' AND first_round <= ? AND last_round >= ? LIMIT 1"
    )
    place = (federation, round_number, round_number)
    return connection.execute(query, place).fetchone() is not None


def find_uses(store: Store, scan_id: str) -> list[Use]:
    """All uses of a scan's volume, for whatever task, by federation and round."""
    with store.read() as connection:
        return uses_of(connection, scan_id)
