"""The one interface through which slices are painted, by a clinician's page or by an oracle."""

from typing import Protocol, runtime_checkable

from client.annotation.select_slices import select_slices
from client.store.annotations import latest_annotations, save_annotation
from client.store.scans import list_scans
from client.store.store import Store
from common.plan import FederationPlan, Task
from common.random_streams import generator
from common.scans import SliceAnnotation, SliceRef


@runtime_checkable
class Annotator(Protocol):
    """Whoever paints."""

    def paint(self, store: Store, ref: SliceRef, looked_for: tuple[int, ...]) -> SliceAnnotation:
        """The painted slice; `looked_for` are the label indexes to look for on it."""
        ...


def asked_slices(store: Store, plan: FederationPlan, task: Task) -> list[SliceRef]:
    """The slices that the plan's strategy asks for, one for each scan without an annotation."""
    waiting = [
        (scan.scan_id, scan.geometry.shape)
        for scan in list_scans(store, task.name)
        if not latest_annotations(store, scan.scan_id)
    ]
    rng = generator(plan.seed, store.hospital, "slice choice", task.name)
    return select_slices(waiting, task.axis, plan.annotation.slice_choice, rng)


def paint_asked_slices(store: Store, plan: FederationPlan, task: Task, annotator: Annotator) -> int:
    """Has every asked slice painted and saved; returns how many."""
    asked = asked_slices(store, plan, task)
    for ref in asked:
        save_annotation(store, annotator.paint(store, ref, plan.class_indexes(task)))
    return len(asked)


def annotated_refs(store: Store, scan_id: str) -> list[SliceRef]:
    """The slices of a scan that are painted."""
    return [annotation.ref for annotation in latest_annotations(store, scan_id)]
