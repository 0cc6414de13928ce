"""A hospital at a glance. SQLite counts; no scan's row is loaded, so ten thousand come at once."""

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from client.store.annotations import annotation_effort
from client.store.scans import ITS_VOLUME
from client.store.store import Store

# The last thing that happened to a scan decides its state, as in the worklist; without a plan every
# scan that nobody has touched counts as asked for.
COUNTS = """
WITH painted AS (
    SELECT scan_id, MAX(time) AS time FROM annotations GROUP BY scan_id
), drafted AS (
    SELECT scan_id, MAX(time) AS time FROM drafts GROUP BY scan_id
), judged AS (
    SELECT scan_id, verdict, time, MAX(number) FROM reviews GROUP BY scan_id
)
SELECT task, COUNT(*) AS scans, CASE
        WHEN drafted.time >= MAX(COALESCE(painted.time, ''), COALESCE(judged.time, ''))
            THEN 'drafted'
        WHEN judged.time >= COALESCE(painted.time, '') THEN judged.verdict
        WHEN painted.time IS NOT NULL THEN 'painted'
        ELSE 'asked'
    END AS state
FROM scans LEFT JOIN painted USING (scan_id) LEFT JOIN drafted USING (scan_id)
    LEFT JOIN judged USING (scan_id)
GROUP BY task, state
"""
STATES = ("asked", "drafted", "painted", "accepted", "flagged")


@dataclass(frozen=True)
class TaskCounts:
    """The scans of a task by state, and the cases that were set aside."""

    task: str
    scans: int
    states: dict[str, int]
    quarantined: int


@dataclass(frozen=True)
class Status:
    """What is in a store.

    Attributes:
        hospital: its name.
        tasks: by name.
        slices: how many are painted.
        minutes: spent on all versions of them.
        quarantine: (task, case, reason) of each case that was set aside.
        rounds: federation -> newest round that was answered.
        withdrawn: scans that may not come back.
        audit_rows: in the log.
    """

    hospital: str
    tasks: tuple[TaskCounts, ...]
    slices: int
    minutes: float
    quarantine: tuple[tuple[str, str, str], ...]
    rounds: dict[str, int]
    withdrawn: int
    audit_rows: int


def read_status(store: Store) -> Status:
    """What is in the store now."""
    slices, seconds = annotation_effort(store)
    with store.read() as connection:
        rounds = connection.execute(
            "SELECT federation, MAX(round) AS newest FROM rounds GROUP BY federation"
        ).fetchall()
        query = "SELECT task, case_name, reason FROM quarantine ORDER BY task, case_name"
        quarantine = tuple(tuple(row) for row in connection.execute(query))
        return Status(
            hospital=store.hospital,
            tasks=_count_tasks(connection),
            slices=slices,
            minutes=round(seconds / 60, 1),
            quarantine=quarantine,
            rounds={row["federation"]: row["newest"] for row in rounds},
            withdrawn=_count(connection, "withdrawn"),
            audit_rows=_count(connection, "audit"),
        )


def count_annotated_scans(store: Store, tasks: Sequence[str]) -> int:
    """How many scans of the named tasks have a painted slice; for several of them, counted once."""
    with store.read() as connection:
        volume = ITS_VOLUME.format("scans.")
        query = (
            f"SELECT COUNT(DISTINCT {volume}) FROM annotations JOIN scans USING (scan_id) "
            "WHERE task IN (SELECT value FROM json_each(?))"
        )
        return int(connection.execute(query, (json.dumps(list(tasks)),)).fetchone()[0])


def largest_scan_voxels(store: Store, tasks: Sequence[str]) -> int:
    """Voxels of the largest scan of the named tasks; 0 without any."""
    with store.read() as connection:
        query = (
            "SELECT DISTINCT json_extract(geometry, '$.shape') AS shape FROM scans "
            "WHERE task IN (SELECT value FROM json_each(?))"
        )
        rows = connection.execute(query, (json.dumps(list(tasks)),))
        return max((math.prod(json.loads(row["shape"])) for row in rows), default=0)


def label_map_bytes_to_come(store: Store) -> int:
    """Bytes of the label maps that are still to be made, of one class each.

    Two half-precision probabilities, one weight and one flag for each voxel.
    """
    axes = " * ".join(f"json_extract(geometry, '$.shape[{axis}]')" for axis in range(3))
    with store.read() as connection:
        query = (
            f"SELECT COALESCE(SUM({axes}), 0) FROM scans "
            "WHERE scan_id NOT IN (SELECT scan_id FROM label_maps)"
        )
        return 7 * int(connection.execute(query).fetchone()[0])


def _count_tasks(connection: sqlite3.Connection) -> tuple[TaskCounts, ...]:
    states: dict[str, dict[str, int]] = {}
    for row in connection.execute(COUNTS):
        states.setdefault(row["task"], dict.fromkeys(STATES, 0))[row["state"]] = row["scans"]
    query = "SELECT task, COUNT(*) AS cases FROM quarantine GROUP BY task"
    set_aside = {row["task"]: row["cases"] for row in connection.execute(query)}
    return tuple(
        TaskCounts(
            task=task,
            scans=sum(states.get(task, {}).values()),
            states=states.get(task, dict.fromkeys(STATES, 0)),
            quarantined=set_aside.get(task, 0),
        )
        for task in sorted({*states, *set_aside})
    )


def _count(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])
