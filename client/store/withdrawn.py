"""Scans that were withdrawn, and may not come back unless somebody says so."""

from client.store.audit import add_row, settle_head
from client.store.scans import OF_VOLUME
from client.store.store import Store
from common.errors import BadScanError


class WithdrawnError(BadScanError):
    """A scan comes again that was withdrawn; it is refused, and its name is not written down."""


def check_not_withdrawn(store: Store, volume_id: str, *, again_allowed: bool) -> None:
    """Refuses a volume that was withdrawn; with `again_allowed` the withdrawal is lifted instead.

    For whatever task it came then, and comes now.

    Raises:
        WithdrawnError: says when it was withdrawn.
    """
    with store.connect() as connection:
        volume = {"volume": volume_id}
        query = f"SELECT time, proof FROM withdrawn WHERE {OF_VOLUME} ORDER BY scan_id"
        found = connection.execute(query, volume).fetchall()
        if not found:
            return
        if any(row["proof"] is not None for row in found):
            raise WithdrawnError(
                "a withdrawal of this scan was interrupted: run `hospital forget` again to end it"
            )
        if not again_allowed:
            raise WithdrawnError(
                f"this scan was withdrawn on {found[0]['time'][:10]} and may not come back; if it "
                "may after all, ingest it with --again-allowed and its name"
            )
        connection.execute(f"DELETE FROM withdrawn WHERE {OF_VOLUME}", volume)
        add_row(store, connection, "allowed_again", {"scan_id": volume_id})
    settle_head(store)


def when_withdrawn(store: Store, scan_id: str) -> str | None:
    """The time of a scan's withdrawal; None if it was not withdrawn."""
    with store.read() as connection:
        query = "SELECT time FROM withdrawn WHERE scan_id = ?"
        found = connection.execute(query, (scan_id,)).fetchone()
    return None if found is None else str(found["time"])


def unfinished_withdrawals(store: Store) -> list[str]:
    """The scans whose withdrawal was interrupted."""
    with store.read() as connection:
        query = "SELECT scan_id FROM withdrawn WHERE proof IS NOT NULL ORDER BY scan_id"
        return [row["scan_id"] for row in connection.execute(query)]
