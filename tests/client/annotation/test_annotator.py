"""Asking for slices and keeping what was painted."""

from collections.abc import Callable

import numpy as np

from client.annotation.annotator import (
    Annotator,
    annotated_refs,
    asked_slices,
    paint_asked_slices,
)
from client.local_round import Hospital
from client.store.annotations import latest_annotations, save_annotation
from client.store.scans import list_scans
from common.plan import FederationPlan


def test_every_scan_of_the_task_is_asked_for_once(
    make_hospital: Callable[..., Hospital],
    make_plan: Callable[..., FederationPlan],
    oracle: Callable[[FederationPlan], Annotator],
) -> None:
    store, plan = make_hospital().store, make_plan()
    task, other = plan.tasks
    scans = [scan.scan_id for scan in list_scans(store, task.name)]
    asked = asked_slices(store, plan, task)
    assert sorted(ref.scan_id for ref in asked) == scans
    # Three scans of 16 slices: no two lie nearer than the smallest golden gap, 0.236 of the extent.
    assert min(np.diff(sorted(ref.index for ref in asked))) >= 3
    assert asked == asked_slices(store, plan, task)

    assert paint_asked_slices(store, plan, task, oracle(plan)) == 3
    assert asked_slices(store, plan, task) == []
    assert paint_asked_slices(store, plan, task, oracle(plan)) == 0
    for ref in asked:
        assert annotated_refs(store, ref.scan_id) == [ref]
        (painted,) = latest_annotations(store, ref.scan_id)
        assert painted.looked_for == (1,)
        assert painted.mask.max() <= 1
    assert all(not annotated_refs(store, scan.scan_id) for scan in list_scans(store, other.name))


def test_a_scan_that_is_painted_already_is_not_asked_for(
    make_hospital: Callable[..., Hospital],
    make_plan: Callable[..., FederationPlan],
    oracle: Callable[[FederationPlan], Annotator],
) -> None:
    store, plan = make_hospital().store, make_plan()
    task = plan.tasks[0]
    first, *others = asked_slices(store, plan, task)
    save_annotation(store, oracle(plan).paint(store, first, (1,)))
    asked = asked_slices(store, plan, task)
    assert asked == others, "a hospital that was interrupted asks for the same slices again"
