"""A hospital at a glance."""

from collections import Counter

from client.store.annotations import annotation_effort
from client.store.scans import list_scans
from client.store.store import Store


def read_status(store: Store) -> dict[str, object]:
    """Counts of scans by task, painted slices and minutes, rounds, and the quarantine in words."""
    slices, seconds = annotation_effort(store)
    with store.read() as connection:
        quarantine = connection.execute("SELECT * FROM quarantine ORDER BY case_name").fetchall()
        rounds = connection.execute(
            "SELECT federation, MAX(round) AS newest FROM rounds GROUP BY federation"
        ).fetchall()
    return {
        "hospital": store.hospital,
        "scans": dict(Counter(scan.task for scan in list_scans(store))),
        "slices": slices,
        "minutes": round(seconds / 60, 1),
        "rounds": {row["federation"]: row["newest"] for row in rounds},
        "quarantine": {row["case_name"]: row["reason"] for row in quarantine},
    }
