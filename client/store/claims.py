"""Who has a scan open. A claim tells others; it locks nothing, and ends by itself.

A closed laptop must not keep a scan from everybody: a claim that is not renewed expires.
"""

import sqlite3
import time
from dataclasses import dataclass

from client.store.store import Store
from common.errors import StoreError

CLAIM_S = 15 * 60.0


@dataclass(frozen=True)
class Claim:
    """Who has it, and for how many seconds still."""

    annotator: str
    left_s: float


class ClaimedError(StoreError):
    """Another person has the scan open. `claim` says who, and for how long."""

    def __init__(self, claim: Claim) -> None:
        """With the other's claim."""
        super().__init__(
            f"expected a scan that nobody has open, {claim.annotator} has this one for another "
            f"{max(1, round(claim.left_s / 60))} min: take another, or wait"
        )
        self.claim = claim


def claim_scan(store: Store, scan_id: str, annotator: str) -> Claim:
    """Takes a scan for a while, or renews the annotator's own claim.

    Raises:
        ClaimedError: another has it.
    """
    moment = time.time()
    with store.connect() as connection:
        held = _find(connection, scan_id, moment)
        if held is not None and held.annotator != annotator:
            raise ClaimedError(held)
        connection.execute(
            "INSERT OR REPLACE INTO claims VALUES (?, ?, ?)",
            (scan_id, annotator, moment + CLAIM_S),
        )
    return Claim(annotator, CLAIM_S)


def release_scan(store: Store, scan_id: str, annotator: str) -> None:
    """Gives up the annotator's own claim; somebody else's stays."""
    with store.connect() as connection:
        connection.execute(
            "DELETE FROM claims WHERE scan_id = ? AND annotator = ?", (scan_id, annotator)
        )


def find_claim(store: Store, scan_id: str) -> Claim | None:
    """Who has a scan; None if nobody has, or the claim has expired."""
    with store.read() as connection:
        return _find(connection, scan_id, time.time())


def _find(connection: sqlite3.Connection, scan_id: str, moment: float) -> Claim | None:
    row = connection.execute(
        "SELECT annotator, expires FROM claims WHERE scan_id = ? AND expires > ?", (scan_id, moment)
    ).fetchone()
    return None if row is None else Claim(row["annotator"], row["expires"] - moment)
