"""The one interface through which slices are painted, by a clinician's page or by an oracle."""

from typing import Protocol, runtime_checkable

from client.annotation.select_slices import select_slices
from client.store.annotations import latest_annotations, save_annotation
from client.store.scans import scans_as_they_came
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
    """The slices that the plan's strategy asks for, one for each scan without an annotation.

    The choice is made over all of the task's scans in the order in which they came, painted or not.
    """
    scans = [(scan.scan_id, scan.geometry.shape) for scan in scans_as_they_came(store, task.name)]
    seed = stream_seed(plan.seed, store.hospital, "slice choice", task.name)
    chosen = select_slices(scans, task.axis, plan.annotation.slice_choice, seed)
    return [ref for ref in chosen if not latest_annotations(store, ref.scan_id)]


def paint_asked_slices(store: Store, plan: FederationPlan, task: Task, annotator: Annotator) -> int:
    """Has every asked slice painted and saved; returns how many."""
    asked = asked_slices(store, plan, task)
    for ref in asked:
        save_annotation(store, annotator.paint(store, ref, plan.class_indexes(task)))
    return len(asked)


def annotated_refs(store: Store, scan_id: str) -> list[SliceRef]:
    """The slices of a scan that are painted."""
    return [annotation.ref for annotation in latest_annotations(store, scan_id)]
