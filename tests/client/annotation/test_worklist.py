"""The worklist: states by what happened last, pages, the slice that is asked for."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.annotation.annotator import Annotator, asked_slices, paint_asked_slices
from client.annotation.worklist import Wanted, Worklist, read_worklist, scan_state
from client.local_round import Hospital
from client.store.annotations import save_annotation
from client.store.claims import claim_scan
from client.store.drafts import drop_draft, save_draft, submit_slice
from client.store.reviews import save_review
from client.store.scans import CatalogScan, find_scan, scans_as_they_came
from client.store.store import Store
from common.errors import SettingsError
from common.plan import FederationPlan
from common.scans import SliceAnnotation, SliceRef

MakeHospital = Callable[..., Hospital]
MakePlan = Callable[..., FederationPlan]
MakeOracle = Callable[[FederationPlan], Annotator]
MASK = np.ones((24, 24), dtype=np.uint8)


@pytest.fixture
def store(make_hospital: MakeHospital) -> Store:
    """Three scans for each of two tasks, of 16 axial slices each."""
    return make_hospital().store


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """The tiny plan."""
    return make_plan()


@pytest.fixture
def scans(store: Store) -> list[CatalogScan]:
    """Those of the first task, as they came."""
    return scans_as_they_came(store, "first")


def read(store: Store, plan: FederationPlan, annotator: str = "anna", **wanted: object) -> Worklist:
    return read_worklist(store, plan, Wanted(**wanted), annotator)  # type: ignore[arg-type]


def paint(store: Store, scan: CatalogScan, index: int = 4, seconds: float = 20.0) -> None:
    ref = SliceRef(scan.scan_id, 2, index)
    save_annotation(store, SliceAnnotation(ref, MASK, (1,), "anna", seconds))


def draft(store: Store, scan: CatalogScan, index: int = 6, who: str = "anna") -> SliceRef:
    ref = SliceRef(scan.scan_id, 2, index)
    save_draft(store, ref, who, MASK, continues=(0,), seconds_spent=1.0)
    return ref


def test_a_new_hospital_is_asked_for_every_scan(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    found = read(store, plan)
    assert (found.total, found.counts["asked"], len(found.rows)) == (6, 6, 6)
    assert (found.slices_painted, found.minutes_painted) == (0, 0.0)
    of_first = read(store, plan, task="first")
    assert [row.scan_id for row in of_first.rows] == [scan.scan_id for scan in scans]
    assert {(row.task, row.state, row.axis) for row in of_first.rows} == {("first", "asked", 2)}
    assert {row.typical_seconds for row in of_first.rows} == {None}
    assert all(row.why.endswith(".") for row in of_first.rows)


@pytest.mark.parametrize("choice", ["centre", "random", "spread", "cohort"])
def test_its_slices_are_those_that_are_asked_for(
    store: Store, make_plan: MakePlan, oracle: MakeOracle, choice: str
) -> None:
    plan = make_plan(annotation={"slice_choice": choice})
    task = plan.tasks[0]
    for _ in range(3):
        wanted = [(ref.scan_id, ref.index) for ref in asked_slices(store, plan, task)]
        found = read(store, plan, task="first", state="asked")
        assert [(row.scan_id, row.index) for row in found.rows] == wanted
        if wanted:
            ref = SliceRef(wanted[0][0], 2, int(found.rows[0].index or 0))
            save_annotation(store, oracle(plan).paint(store, ref, (1,)))
    assert len(wanted) == 1


def test_the_most_typical_slice_is_looked_for_when_a_scan_is_opened(
    store: Store, make_plan: MakePlan
) -> None:
    plan = make_plan(annotation={"slice_choice": "representative"})
    assert {row.index for row in read(store, plan).rows} == {None}


def test_with_every_slice_a_scan_is_asked_for_until_all_are_painted(
    store: Store, make_plan: MakePlan, scans: list[CatalogScan]
) -> None:
    plan = make_plan(annotation={"slice_choice": "every"})
    for index in range(15):
        paint(store, scans[0], index)
        paint(store, scans[0], index)
    (row,) = [row for row in read(store, plan).rows if row.scan_id == scans[0].scan_id]
    assert (row.state, row.index) == ("asked", 15)
    paint(store, scans[0], 15)
    assert scan_state(store, plan, scans[0]) == "painted"


def test_the_last_thing_that_happened_decides_the_state(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    scan = scans[0]
    seen = [scan_state(store, plan, scan)]

    def look() -> None:
        state = scan_state(store, plan, scan)
        listed = {row.scan_id: row.state for row in read(store, plan).rows}
        assert listed[scan.scan_id] == state
        assert read(store, plan).counts[state] >= 1
        seen.append(state)

    ref = draft(store, scan)
    look()
    submit_slice(store, SliceAnnotation(ref, MASK, (1,), "anna", 9.0), 1)
    look()
    save_review(store, scan.scan_id, "flagged", "ben", "blurred")
    look()
    save_review(store, scan.scan_id, "accepted", "ben", "")
    look()
    other = draft(store, scan, 9, "ben")
    look()
    drop_draft(store, other, "ben")
    look()
    paint(store, scan, 9)
    look()
    assert seen == [
        "asked",
        "drafted",
        "painted",
        "flagged",
        "accepted",
        "drafted",
        "accepted",
        "painted",
    ]


def test_a_draft_that_was_left_behind_does_not_hide_what_others_painted(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    draft(store, scans[0], 6, "ben")
    paint(store, scans[0])
    assert scan_state(store, plan, scans[0]) == "painted"


def test_a_scan_can_be_flagged_before_anybody_paints_it(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    save_review(store, scans[0].scan_id, "flagged", "anna", "another organ")
    (row,) = read(store, plan, state="flagged").rows
    assert (row.scan_id, row.axis, row.index) == (scans[0].scan_id, 2, None)


def test_rows_come_in_the_order_of_what_is_to_be_done(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    others = scans_as_they_came(store, "second")
    paint(store, scans[0])
    paint(store, scans[1])
    save_review(store, scans[1].scan_id, "accepted", "ben", "")
    draft(store, others[2])
    rows = read(store, plan).rows
    assert [row.scan_id for row in rows] == [
        one.scan_id for one in (others[2], scans[2], others[0], others[1], scans[0], scans[1])
    ]
    assert [row.index for row in rows if row.state in ("drafted", "painted")] == [6, 4]


def test_one_is_shown_ones_own_draft_first(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    draft(store, scans[0], 3, "anna")
    draft(store, scans[0], 8, "ben")
    indexes = {
        who: read(store, plan, who, state="drafted").rows[0].index for who in ("anna", "ben")
    }
    assert indexes == {"anna": 3, "ben": 8}


def test_pages_follow_each_other_without_gap_or_overlap(store: Store, plan: FederationPlan) -> None:
    whole = [row.scan_id for row in read(store, plan).rows]
    pages = [read(store, plan, offset=offset, limit=4) for offset in (0, 4, 8)]
    assert [row.scan_id for page in pages for row in page.rows] == whole
    assert {page.total for page in pages} == {6}


def test_filters_change_the_total_but_counts_are_the_tasks(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    paint(store, scans[0])
    found = read(store, plan, task="first", state="painted")
    assert (found.total, len(found.rows)) == (1, 1)
    counts = {"asked": 2, "drafted": 0, "painted": 1, "accepted": 0, "flagged": 0}
    assert found.counts == counts
    assert read(store, plan, task="second").counts == {**counts, "asked": 3, "painted": 0}


def test_scans_beyond_those_that_the_plan_asks_for_are_left_out(
    store: Store, make_plan: MakePlan, oracle: MakeOracle, scans: list[CatalogScan]
) -> None:
    plan = make_plan(annotation={"scans": 2})
    found = read(store, plan, task="first")
    assert [row.scan_id for row in found.rows] == [scan.scan_id for scan in scans[:2]]
    assert found.total == 2
    paint_asked_slices(store, plan, plan.tasks[0], oracle(plan))
    assert read(store, plan, task="first", state="asked").rows == []
    # Somebody painted it all the same: it waits for a look like the others.
    paint(store, scans[2])
    assert read(store, plan, task="first").counts["painted"] == 3


def test_claims_are_shown_while_they_last(
    store: Store, plan: FederationPlan, scans: list[CatalogScan], monkeypatch: pytest.MonkeyPatch
) -> None:
    claim_scan(store, scans[0].scan_id, "anna")
    claimed = {row.scan_id: row for row in read(store, plan, "ben").rows}
    row = claimed.pop(scans[0].scan_id)
    assert (row.claimed_by, row.mine) == ("anna", False)
    assert row.claim_left_s == pytest.approx(900, abs=60)
    assert {(one.claimed_by, one.claim_left_s, one.mine) for one in claimed.values()} == {
        (None, None, False)
    }
    (own,) = [one for one in read(store, plan, "anna").rows if one.claimed_by]
    assert own.mine
    with store.connect() as connection:
        connection.execute("UPDATE claims SET expires = 0")
    assert all(one.claimed_by is None for one in read(store, plan, "ben").rows)


def test_effort_and_the_typical_time_are_the_tasks_own(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    # Imported masks took no time here: they count as slices, not for the median.
    for scan, seconds in zip(scans, (10.0, 50.0, 0.0), strict=True):
        paint(store, scan, seconds=seconds)
    paint(store, scans[0], seconds=20.0)
    found = read(store, plan, task="first")
    assert {row.typical_seconds for row in found.rows} == {20.0}
    assert (found.slices_painted, found.minutes_painted) == (3, 1.3)
    assert {row.typical_seconds for row in read(store, plan, task="second").rows} == {None}
    assert read(store, plan).slices_painted == 3


def test_scans_of_a_task_that_the_plan_has_not_are_left_out(
    store: Store, plan: FederationPlan, make_plan: MakePlan
) -> None:
    values = plan.model_dump()
    only = FederationPlan.model_validate({**values, "tasks": values["tasks"][:1]})
    assert read(store, only).total == 3
    with pytest.raises(SettingsError, match="no task 'second'; its tasks are first"):
        read(store, only, task="second")


def test_reading_the_list_changes_nothing(
    store: Store, plan: FederationPlan, scans: list[CatalogScan]
) -> None:
    paint(store, scans[0])
    before = [replace(find_scan(store, scan.scan_id)) for scan in scans]
    assert read(store, plan) == read(store, plan)
    assert [find_scan(store, scan.scan_id) for scan in scans] == before
    with store.read() as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        assert "listed" not in {row["name"] for row in tables}
