"""The hospital's list of scans: what each waits for, which slice is asked for, and why.

A page of ten thousand scans must come at once: states, order and counts are worked out by SQLite,
and slices are chosen for the rows of the page alone.
"""

import json
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Literal

from client.annotation.annotator import choose_slices, painted_so_far, slices_of
from client.annotation.select_slices import Painted
from client.store.scans import CatalogScan, lookup_scans
from client.store.store import Store
from common.errors import SettingsError
from common.plan import FederationPlan, SliceChoice, Task

State = Literal["asked", "drafted", "painted", "accepted", "flagged"]
STATES: tuple[State, ...] = ("asked", "drafted", "painted", "accepted", "flagged")

WHY_ASKED: dict[SliceChoice, str] = {
    "centre": "The middle of the volume.",
    "random": "Drawn at random.",
    "spread": "The scans together show the whole extent, also where the structure ends.",
    "cohort": "Near where painted slices showed something, at times further out.",
    "doubt": "Where the model is in doubt, or near where painted slices showed something.",
    "representative": "The slice that looks most like all others of this scan.",
    "every": "Every slice of this scan is asked for; this is the first that is left.",
}
WHY: dict[State, str] = {
    "drafted": "Somebody began to paint this slice and has not submitted it.",
    "painted": "Painted; what became of it in the volume waits for a look.",
    "accepted": "Painted and accepted.",
    "flagged": "Flagged by a reviewer.",
}
# The last thing that happened to a scan decides its state. Scans beyond those that the plan asks
# for are listed only if something happened to them.
LISTED = """
CREATE TEMP TABLE listed AS
WITH placed AS (
    SELECT scan_id, task, scans.rowid AS came,
        ROW_NUMBER() OVER (PARTITION BY task ORDER BY scans.rowid) - 1 AS place,
        CASE WHEN :every THEN json_extract(geometry, '$.shape[' || of_plan.value || ']')
            ELSE 1 END AS slices_wanted
    FROM json_each(:axis_of_task) AS of_plan JOIN scans ON scans.task = of_plan.key
    {which}
), painted AS (
    SELECT scan_id, MAX(time) AS time, COUNT(*) AS slices FROM (
        SELECT scan_id, MAX(time) AS time FROM annotations {which} GROUP BY scan_id, axis, slice
    ) GROUP BY scan_id
), newest AS (
    SELECT scan_id, axis, slice, annotator, MAX(version) AS version
    FROM drafts {which} GROUP BY scan_id, axis, slice, annotator
), drafted AS (
    SELECT scan_id, MAX(time) AS time
    FROM newest JOIN drafts USING (scan_id, axis, slice, annotator, version) GROUP BY scan_id
), judged AS (
    SELECT scan_id, verdict, time, MAX(number) FROM reviews {which} GROUP BY scan_id
)
SELECT scan_id, task, came, place,
    CASE
        WHEN drafted.time >= MAX(COALESCE(painted.time, ''), COALESCE(judged.time, ''))
            THEN 'drafted'
        WHEN judged.time >= COALESCE(painted.time, '') THEN verdict
        WHEN slices >= slices_wanted THEN 'painted'
        ELSE 'asked'
    END AS state
FROM placed LEFT JOIN painted USING (scan_id) LEFT JOIN drafted USING (scan_id)
    LEFT JOIN judged USING (scan_id)
WHERE place < :most OR COALESCE(painted.time, drafted.time, judged.time) IS NOT NULL
"""
# The slices are looked up outside, for the rows of the page: inside, SQLite would do it for all.
PAGE = """
SELECT page.*, claims.annotator AS claimed_by, expires,
    (SELECT json_array(axis, slice) FROM drafts WHERE drafts.scan_id = page.scan_id
        ORDER BY annotator = :annotator DESC, time DESC LIMIT 1) AS draft,
    (SELECT json_array(axis, slice) FROM annotations WHERE annotations.scan_id = page.scan_id
        ORDER BY time DESC LIMIT 1) AS last_painted
FROM (
    SELECT * FROM listed WHERE :state IS NULL OR state = :state
    ORDER BY INSTR('drafted asked painted flagged accepted', state), came
    LIMIT :limit OFFSET :offset
) AS page LEFT JOIN claims ON claims.scan_id = page.scan_id AND expires > :moment
"""


@dataclass(frozen=True)
class Wanted:
    """Which part of the list; none: all tasks, all states."""

    task: str | None = None
    state: State | None = None
    offset: int = 0
    limit: int = 50


@dataclass(frozen=True)
class WorklistRow:
    """One scan.

    Attributes:
        scan_id: the scan.
        task: whose classes are painted on it.
        state: what it waits for.
        axis: of the slice.
        index: the slice to paint, that is being painted, or was painted last; None where it is
            chosen from the image, when the scan is opened.
        why: why this slice, in a sentence.
        claimed_by: who has the scan open.
        claim_left_s: for how long still.
        mine: whether that is who asks.
        typical_seconds: the median of what such slices took; None before the first.
    """

    scan_id: str
    task: str
    state: State
    axis: int
    index: int | None
    why: str
    claimed_by: str | None
    claim_left_s: float | None
    mine: bool
    typical_seconds: float | None


@dataclass(frozen=True)
class Worklist:
    """A page. `total` counts what the filters let through, `counts` every state of the task."""

    total: int
    counts: dict[State, int]
    minutes_painted: float
    slices_painted: int
    rows: list[WorklistRow]


def read_worklist(
    store: Store, plan: FederationPlan, wanted: Wanted, annotator: str = ""
) -> Worklist:
    """A page of the list: drafts first, then what is asked for, then what waits for a look.

    Raises:
        SettingsError: the plan has no such task.
    """
    tasks = _tasks(plan, wanted.task)
    values = {
        "annotator": annotator,
        "state": wanted.state,
        "limit": wanted.limit,
        "offset": wanted.offset,
        "moment": time.time(),
    }
    with store.read() as connection:
        _list(connection, plan, tasks)
        counted = connection.execute(
            "SELECT state, COUNT(*) AS scans FROM listed GROUP BY state"
        ).fetchall()
        page = connection.execute(PAGE, values).fetchall()
    found = {row["state"]: int(row["scans"]) for row in counted}
    counts = {state: found.get(state, 0) for state in STATES}
    efforts = {task.name: _effort(store, task) for task in tasks}
    return Worklist(
        total=sum(counts.values()) if wanted.state is None else counts[wanted.state],
        counts=counts,
        minutes_painted=round(sum(one.seconds for one in efforts.values()) / 60, 1),
        slices_painted=sum(one.slices for one in efforts.values()),
        rows=_describe(store, plan, page, annotator, efforts),
    )


def scan_state(store: Store, plan: FederationPlan, scan: CatalogScan) -> State:
    """What one scan waits for; a scan beyond those that the plan asks for counts as asked."""
    with store.read() as connection:
        _list(connection, plan, [plan.task_named(scan.task)], scan.scan_id)
        state: State = connection.execute("SELECT state FROM listed").fetchone()["state"]
    return state


def _tasks(plan: FederationPlan, name: str | None) -> list[Task]:
    found = [task for task in plan.tasks if name is None or task.name == name]
    if not found:
        names = ", ".join(task.name for task in plan.tasks)
        raise SettingsError(f"the plan has no task {name!r}; its tasks are {names}")
    return found


def _list(
    connection: sqlite3.Connection,
    plan: FederationPlan,
    tasks: list[Task],
    scan_id: str | None = None,
) -> None:
    """Makes the table `listed` of the tasks' scans, or of one scan, for this connection alone."""
    connection.execute("PRAGMA temp_store = MEMORY")
    most = plan.annotation.scans
    values = {
        "axis_of_task": json.dumps({task.name: task.axis for task in tasks}),
        "every": plan.annotation.slice_choice == "every",
        "most": 2**62 if most is None else most,
        "scan_id": scan_id,
    }
    which = "" if scan_id is None else "WHERE scan_id = :scan_id"
    connection.execute(LISTED.replace("{which}", which), values)


@dataclass(frozen=True)
class _Effort:
    """How many slices of a task are painted, all seconds, and those of a typical one."""

    slices: int
    seconds: float
    typical_seconds: float | None


def _effort(store: Store, task: Task) -> _Effort:
    with store.read() as connection:
        rows = connection.execute(
            "SELECT scan_id, axis, slice, seconds_spent "
            "FROM annotations JOIN scans USING (scan_id) WHERE task = ?",
            (task.name,),
        ).fetchall()
    # Slices that were painted elsewhere and imported came without a time.
    seconds = [row["seconds_spent"] for row in rows if row["seconds_spent"] > 0]
    slices = len({(row["scan_id"], row["axis"], row["slice"]) for row in rows})
    return _Effort(slices, sum(seconds), round(median(seconds), 1) if seconds else None)


def _describe(
    store: Store,
    plan: FederationPlan,
    page: list[sqlite3.Row],
    annotator: str,
    efforts: Mapping[str, _Effort],
) -> list[WorklistRow]:
    asked = [row for row in page if row["state"] == "asked"]
    painted = {
        name: painted_so_far(store, plan, plan.task_named(name))
        for name in {row["task"] for row in asked}
    }
    scans = lookup_scans(store, [row["scan_id"] for row in asked])
    rows = []
    for row in page:
        if row["state"] == "asked":
            newcomer = (row["place"], scans[row["scan_id"]])
            axis, index = _asked_slice(store, plan, newcomer, painted[row["task"]])
        else:
            axis, index = _slice_at_hand(plan, row)
        holder = row["claimed_by"]
        rows.append(
            WorklistRow(
                scan_id=row["scan_id"],
                task=row["task"],
                state=row["state"],
                axis=axis,
                index=index,
                why=WHY.get(row["state"], WHY_ASKED[plan.annotation.slice_choice]),
                claimed_by=holder,
                claim_left_s=None if holder is None else round(row["expires"] - time.time(), 1),
                mine=holder is not None and holder == annotator,
                typical_seconds=efforts[row["task"]].typical_seconds,
            )
        )
    return rows


def _asked_slice(
    store: Store,
    plan: FederationPlan,
    newcomer: tuple[int, CatalogScan],
    painted: list[Painted],
) -> tuple[int, int | None]:
    """Axis and index of the slice to paint."""
    task, choice = plan.task_named(newcomer[1].task), plan.annotation.slice_choice
    if choice == "representative":
        # It takes a look at the whole volume, which a page of the list has no time for.
        return task.axis, None
    if choice == "every":
        refs = slices_of(store, plan, task, newcomer, painted)
    else:
        refs = choose_slices(store, plan, task, newcomer, painted)
    return task.axis, refs[0].index if refs else None


def _slice_at_hand(plan: FederationPlan, row: sqlite3.Row) -> tuple[int, int | None]:
    """Axis and index of the slice that is being painted, or was painted last."""
    known = row["draft"] if row["state"] == "drafted" else row["last_painted"]
    if known is None:
        return plan.task_named(row["task"]).axis, None
    axis, index = json.loads(known)
    return axis, index
