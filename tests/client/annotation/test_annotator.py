"""Asking for slices and keeping what was painted."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.annotation.annotator import (
    Annotator,
    annotated_refs,
    asked_slices,
    paint_asked_slices,
    painted_so_far,
    slices_of,
)
from client.annotation.select_slices import Painted, select_slices
from client.local_round import Hospital
from client.store.annotations import latest_annotations, save_annotation
from client.store.scans import list_scans, load_scan, scans_as_they_came
from client.store.store import Store
from common.plan import FederationPlan
from common.random_streams import stream_seed
from common.scans import SliceAnnotation, SliceRef

MakeHospital = Callable[..., Hospital]
MakePlan = Callable[..., FederationPlan]
MakeOracle = Callable[[FederationPlan], Annotator]
CHOICES = ("centre", "random", "spread", "representative", "cohort", "every")


class InterruptedHereError(Exception):
    """The power went off."""


class Tiring:
    """Paints a number of slices and is interrupted at the next."""

    def __init__(self, annotator: Annotator, slices: int) -> None:
        self.annotator = annotator
        self.left = slices

    def paint(self, store: Store, ref: SliceRef, looked_for: tuple[int, ...]) -> SliceAnnotation:
        """What the annotator paints."""
        if self.left == 0:
            raise InterruptedHereError
        self.left -= 1
        return self.annotator.paint(store, ref, looked_for)


def painted_refs(store: Store) -> list[SliceRef]:
    return [ref for scan in list_scans(store) for ref in annotated_refs(store, scan.scan_id)]


def test_every_scan_of_the_task_is_asked_for_once(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle
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
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle
) -> None:
    store, plan = make_hospital().store, make_plan()
    task = plan.tasks[0]
    first, *others = asked_slices(store, plan, task)
    save_annotation(store, oracle(plan).paint(store, first, (1,)))
    asked = asked_slices(store, plan, task)
    assert asked == others, "a hospital that was interrupted asks for the same slices again"


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("painted_before", [1, 2])
def test_an_interrupted_hospital_asks_the_same_again(
    make_hospital: MakeHospital,
    make_plan: MakePlan,
    oracle: MakeOracle,
    choice: str,
    painted_before: int,
) -> None:
    plan = make_plan(annotation={"slice_choice": choice})
    steady, interrupted = make_hospital("steady").store, make_hospital("interrupted").store
    task = plan.tasks[0]
    wanted = paint_asked_slices(steady, plan, task, oracle(plan))
    with pytest.raises(InterruptedHereError):
        paint_asked_slices(interrupted, plan, task, Tiring(oracle(plan), painted_before))
    assert len(painted_refs(interrupted)) == painted_before
    left = paint_asked_slices(interrupted, plan, task, oracle(plan))
    assert painted_before + left == wanted
    assert painted_refs(interrupted) == painted_refs(steady)


def test_every_asks_for_full_labels(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle
) -> None:
    store, plan = make_hospital().store, make_plan(annotation={"slice_choice": "every"})
    task = plan.tasks[0]
    # Three scans of 16 axial slices.
    assert len(asked_slices(store, plan, task)) == 3 * 16
    assert paint_asked_slices(store, plan, task, oracle(plan)) == 3 * 16
    assert asked_slices(store, plan, task) == []


@pytest.mark.parametrize("choice", ["spread", "cohort", "every"])
def test_only_the_first_scans_are_asked_for_if_the_plan_says_so(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle, choice: str
) -> None:
    store = make_hospital().store
    plan = make_plan(annotation={"scans": 2, "slice_choice": choice})
    task = plan.tasks[0]
    first = [scan.scan_id for scan in scans_as_they_came(store, task.name)[:2]]
    assert list(dict.fromkeys(ref.scan_id for ref in asked_slices(store, plan, task))) == first
    slices = 2 * 16 if choice == "every" else 2
    assert paint_asked_slices(store, plan, task, oracle(plan)) == slices
    assert sorted({ref.scan_id for ref in painted_refs(store)}) == sorted(first)
    # These two are painted now, and the third is not asked for instead.
    assert asked_slices(store, plan, task) == []


def test_more_scans_than_there_are_is_all_of_them(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store = make_hospital().store
    all_scans, many = make_plan(), make_plan(annotation={"scans": 100})
    task = many.tasks[0]
    assert len(asked_slices(store, many, task)) == 3
    assert asked_slices(store, many, task) == asked_slices(store, all_scans, task)


def test_the_cohort_looks_at_what_the_scans_before_showed(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle
) -> None:
    store, plan = make_hospital().store, make_plan(annotation={"slice_choice": "cohort"})
    task = plan.tasks[0]
    seed = stream_seed(plan.seed, "north", "slice choice", task.name)
    scans = scans_as_they_came(store, task.name)
    seen: list[Painted] = []
    wanted = []
    for place, scan in enumerate(scans):
        image = np.asarray(load_scan(store, scan.scan_id).image)
        (ref,) = select_slices(
            image, (scan.scan_id, 2), "cohort", place=place, seed=seed, painted=seen
        )
        wanted.append(ref)
        mask = oracle(plan).paint(store, ref, (1,)).mask
        seen.append(Painted((ref.index + 0.5) / 16, bool(mask.any())))
    paint_asked_slices(store, plan, task, oracle(plan))
    found = [annotated_refs(store, scan.scan_id)[0] for scan in scans]
    assert found == wanted
    told = sorted(painted_so_far(store, plan, task), key=lambda one: one.position)
    assert told == sorted(seen, key=lambda one: one.position)


def test_what_was_painted_is_told_with_its_position_and_whether_it_shows(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store, plan = make_hospital().store, make_plan(annotation={"slice_choice": "cohort"})
    first, second = plan.tasks
    scans = scans_as_they_came(store, "first")
    shown, empty = np.zeros((24, 24), np.uint8), np.zeros((24, 24), np.uint8)
    shown[3, 3] = 1
    organ = SliceAnnotation(SliceRef(scans[0].scan_id, 2, 3), shown, (1,), "someone", 1.0)
    nothing = SliceAnnotation(SliceRef(scans[1].scan_id, 2, 15), empty, (1,), "someone", 1.0)
    for annotation in (organ, nothing):
        save_annotation(store, annotation)
    # Slices 3 and 15 of 16: the middles of their shares of the extent.
    assert set(painted_so_far(store, plan, first)) == {
        Painted(3.5 / 16, True),
        Painted(15.5 / 16, False),
    }
    assert painted_so_far(store, plan, second) == [], "nobody looked for the lesion there"
    both = first.model_copy(update={"classes": (*first.classes, *second.classes)})
    assert painted_so_far(store, plan, both) == painted_so_far(store, plan, first)
    # A slice along another axis says nothing of positions along this one.
    across = replace(organ, ref=SliceRef(scans[2].scan_id, 0, 3), mask=shown[:, :16])
    save_annotation(store, across)
    assert len(painted_so_far(store, plan, first)) == 2
    # Looked for both, found the organ: of the lesion it tells that it is not here.
    both = replace(organ, ref=SliceRef(scans[2].scan_id, 2, 8), looked_for=(1, 2))
    save_annotation(store, both)
    assert painted_so_far(store, plan, second) == [Painted(8.5 / 16, False)]


def test_the_slices_of_a_scan_depend_on_its_place(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store, plan = make_hospital().store, make_plan()
    task = plan.tasks[0]
    scan = scans_as_they_came(store, task.name)[0]
    one, same, other = (slices_of(store, plan, task, (place, scan), []) for place in (0, 0, 1))
    assert one == same
    assert one != other
