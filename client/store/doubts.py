"""Where a segmenter doubts itself, on scans that nobody has painted yet."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from client.store.store import Store


@dataclass(frozen=True)
class SliceDoubt:
    """The doubtful voxels on each slice along the task's axis, as the segmenter that came in sees.

    `federation` and `round` tell which segmenter it was.
    """

    federation: str
    round: int
    profile: tuple[float, ...]


def save_doubt(store: Store, scan_id: str, found: SliceDoubt) -> None:
    """Keeps it in place of an older one."""
    row = (scan_id, found.federation, found.round, json.dumps(found.profile))
    with store.connect() as connection:
        connection.execute("INSERT OR REPLACE INTO doubts VALUES (?, ?, ?, ?)", row)


def find_doubts(store: Store, scan_ids: Sequence[str]) -> dict[str, SliceDoubt]:
    """Those that there are, by scan_id."""
    query = (
        "SELECT * FROM json_each(?) AS wanted JOIN doubts ON doubts.scan_id = wanted.value "
        "ORDER BY scan_id"
    )
    with store.read() as connection:
        rows = connection.execute(query, (json.dumps(list(scan_ids)),)).fetchall()
    return {
        row["scan_id"]: SliceDoubt(
            row["federation"], row["round"], tuple(json.loads(row["profile"]))
        )
        for row in rows
    }
