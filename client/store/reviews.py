"""What people said of a scan's spread label: every verdict stays, the last one counts."""

from dataclasses import dataclass
from typing import Literal

from client.store.clock import now
from client.store.store import Store

Verdict = Literal["accepted", "flagged"]


@dataclass(frozen=True)
class Review:
    """One verdict; `reason` says why a scan was flagged."""

    number: int
    verdict: Verdict
    annotator: str
    reason: str
    time: str


def save_review(store: Store, scan_id: str, verdict: Verdict, annotator: str, reason: str) -> int:
    """Adds a verdict; returns its number, 1 for the scan's first."""
    with store.connect() as connection:
        query = "SELECT COALESCE(MAX(number), 0) FROM reviews WHERE scan_id = ?"
        number = 1 + int(connection.execute(query, (scan_id,)).fetchone()[0])
        connection.execute(
            "INSERT INTO reviews VALUES (?, ?, ?, ?, ?, ?)",
            (scan_id, number, verdict, annotator, reason, now()),
        )
    return number


def latest_review(store: Store, scan_id: str) -> Review | None:
    """The verdict that counts; None if nobody has said anything."""
    with store.read() as connection:
        row = connection.execute(
            "SELECT number, verdict, annotator, reason, time FROM reviews WHERE scan_id = ? "
            "ORDER BY number DESC LIMIT 1",
            (scan_id,),
        ).fetchone()
    return None if row is None else Review(**dict(row))


def flagged_scans(store: Store) -> set[str]:
    """The scans whose last verdict is a flag, and of which nothing was painted since."""
    query = (
        "SELECT scan_id, verdict, reviews.time, MAX(number) FROM reviews GROUP BY scan_id "
        "HAVING verdict = 'flagged' AND reviews.time >= COALESCE((SELECT MAX(time) "
        "FROM annotations WHERE annotations.scan_id = reviews.scan_id), '')"
    )
    with store.read() as connection:
        return {row["scan_id"] for row in connection.execute(query)}
