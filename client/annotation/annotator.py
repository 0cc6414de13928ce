"""The one interface through which slices are painted, by a clinician's page or by an oracle."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Protocol, runtime_checkable

import numpy as np

from client.annotation.select_slices import Painted, select_slices, slice_in_doubt
from client.store.annotations import painted_slices, save_annotation
from client.store.arrays import load_array
from client.store.doubts import find_doubts
from client.store.scans import CatalogScan, scans_as_they_came
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
    choice, done = plan.annotation.slice_choice, annotated_refs(store, newcomer[1].scan_id)
    if done and choice != "every":
        return []
    asked = choose_slices(store, plan, task, newcomer, painted)
    return [ref for ref in asked if ref not in done]


def choose_slices(
    store: Store,
    plan: FederationPlan,
    task: Task,
    newcomer: tuple[int, CatalogScan],
    painted: Sequence[Painted],
) -> list[SliceRef]:
    """As `slices_of`, of a scan of which nothing is painted."""
    place, scan = newcomer
    choice = plan.annotation.slice_choice
    if choice == "representative":
        image = np.asarray(load_array(store, scan.image_key))
    else:
        # The other choices look at nothing but the shape.
        image = np.broadcast_to(np.float32(0), (plan.channels, *scan.geometry.shape))
    where = (scan.scan_id, task.axis)
    seed = stream_seed(plan.seed, store.hospital, "slice choice", task.name)
    if choice == "doubt" and not plan.is_held_back(scan.scan_id):
        # Held-back slices judge the model: chosen where it is weak, they would judge it too hard.
        doubt = _doubt_of(store, plan, task, scan)
        if any(doubt):
            return [slice_in_doubt(where, doubt, place=place, seed=seed)]
    return select_slices(image, where, choice, place=place, seed=seed, painted=painted)


def _doubt_of(
    store: Store, plan: FederationPlan, task: Task, scan: CatalogScan
) -> tuple[float, ...]:
    """The doubt on each slice of a scan; empty if this plan, or the one before, never looked.

    Another federation's segmenter, or one that looked along another axis, says nothing here.
    """
    found = find_doubts(store, [scan.scan_id]).get(scan.scan_id)
    federations = {plan.federation, plan.extends.federation if plan.extends else ""}
    if found is None or found.federation not in federations:
        return ()
    is_along_axis = len(found.profile) == scan.geometry.shape[task.axis]
    return found.profile if is_along_axis else ()


def painted_so_far(store: Store, plan: FederationPlan, task: Task) -> list[Painted]:
    """The slices along the task's axis on which any of its classes was looked for, of any task.

    None unless the plan's choice looks at them.
    """
    if plan.annotation.slice_choice not in ("cohort", "doubt"):
        return []
    query = (
        "SELECT slice, looked_for, present, json_extract(geometry, ?) AS depth, MAX(version) "
        "FROM annotations JOIN scans USING (scan_id) WHERE axis = ? GROUP BY scan_id, slice"
    )
    with store.read() as connection:
        rows = connection.execute(query, (f"$.shape[{task.axis}]", task.axis)).fetchall()
    classes = set(plan.class_indexes(task))
    indexes = cache(lambda text: set(json.loads(text)))  # the same few lists, thousands of times
    return [
        Painted((row["slice"] + 0.5) / row["depth"], bool(classes & indexes(row["present"])))
        for row in rows
        if classes & indexes(row["looked_for"])
    ]


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
    return [painted.ref for painted in painted_slices(store, scan_id)]
