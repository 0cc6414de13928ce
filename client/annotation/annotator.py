"""The one interface through which slices are painted, by a clinician's page or by an oracle."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from client.annotation.select_slices import Painted, select_slices
from client.store.annotations import latest_annotations, save_annotation
from client.store.scans import CatalogScan, list_scans, load_scan, scans_as_they_came
from client.store.store import Store
from common.plan import FederationPlan, Task
from common.random_streams import stream_seed
from common.scans import SliceAnnotation, SliceRef


@runtime_checkable
class Annotator(Protocol):
    """Whoever paints."""

    def paint(self, store: Store, ref: SliceRef, looked_for: tuple[int, ...]) -> SliceAnnotation:
        """The painted slice; `looked_for` are the label indexes to look for on it."""
        ...


def asked_slices(store: Store, plan: FederationPlan, task: Task) -> list[SliceRef]:
    """The slices that the plan asks for now, of each scan without an annotation.

    At most `plan.annotation.scans` scans of a task are asked for, the first that came.
    """
    scans = scans_as_they_came(store, task.name)[: plan.annotation.scans]
    painted = painted_so_far(store, plan, task)
    chosen = [
        slices_of(store, plan, task, (place, scan), painted) for place, scan in enumerate(scans)
    ]
    return [ref for refs in chosen for ref in refs]


def slices_of(
    store: Store,
    plan: FederationPlan,
    task: Task,
    newcomer: tuple[int, CatalogScan],
    painted: Sequence[Painted],
) -> list[SliceRef]:
    """The slices to paint of a scan; none if it is painted, with `every` those that are left.

    `newcomer` is the scan and how many came before it; `painted` what was painted so far.
    """
    place, scan = newcomer
    choice, done = plan.annotation.slice_choice, annotated_refs(store, scan.scan_id)
    if done and choice != "every":
        return []
    asked = select_slices(
        np.asarray(load_scan(store, scan.scan_id).image),
        (scan.scan_id, task.axis),
        choice,
        place=place,
        seed=stream_seed(plan.seed, store.hospital, "slice choice", task.name),
        painted=painted,
    )
    return [ref for ref in asked if ref not in done]


def painted_so_far(store: Store, plan: FederationPlan, task: Task) -> list[Painted]:
    """The slices along the task's axis on which its classes were looked for, of any task.

    None unless the plan's choice is `cohort`, which alone looks at them.
    """
    if plan.annotation.slice_choice != "cohort":
        return []
    classes = plan.class_indexes(task)
    found = []
    for scan in list_scans(store):
        for annotation in latest_annotations(store, scan.scan_id):
            ref = annotation.ref
            if ref.axis == task.axis and set(classes) <= set(annotation.looked_for):
                position = (ref.index + 0.5) / scan.geometry.shape[ref.axis]
                found.append(Painted(position, bool(np.isin(annotation.mask, classes).any())))
    return found


def paint_asked_slices(store: Store, plan: FederationPlan, task: Task, annotator: Annotator) -> int:
    """Has every asked slice painted and saved, scan after scan; returns how many."""
    number = 0
    scans = scans_as_they_came(store, task.name)[: plan.annotation.scans]
    for place, scan in enumerate(scans):
        # One at a time: what the scans before showed may decide where to look on this one.
        painted = painted_so_far(store, plan, task)
        for ref in slices_of(store, plan, task, (place, scan), painted):
            save_annotation(store, annotator.paint(store, ref, plan.class_indexes(task)))
            number += 1
    return number


def annotated_refs(store: Store, scan_id: str) -> list[SliceRef]:
    """The slices of a scan that are painted."""
    return [annotation.ref for annotation in latest_annotations(store, scan_id)]
