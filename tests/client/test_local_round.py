"""Rounds at a hospital over a real store: which scans are learned from, which are scored."""

from collections.abc import Callable

import numpy as np
import pytest
from hospital_rounds import (
    ask,
    first_arrays,
    ids_of,
)

from client.annotation.annotator import Annotator, annotated_refs
from client.local_round import Hospital
from client.round_material import Labelled, choose_material, find_labelled
from client.store.annotations import latest_annotations, save_annotation
from client.store.label_maps import find_label_map, load_label_map
from client.store.reviews import save_review
from client.store.rounds import HospitalState, Memory, Remembered, latest_round, load_state
from common.plan import FederationPlan
from common.scans import SliceAnnotation, SliceRef

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
Paint = Callable[..., None]


# What a round is ------------------------------------------------------------------------------


def test_a_stream_of_two_tasks(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = first_arrays(plan)
    outcomes = []
    for number in (1, 2, 3, 4):
        if number == 4:
            paint(hospital, plan, "second")
        update = ask(hospital, plan, number, arrays)
        note, arrays = update.note, update.arrays
        assert note.round == number
        outcomes.append((note.outcome, note.task, note.used, note.replayed))
        assert note.num_examples == note.used + note.replayed
        assert note.loss is not None
        assert note.student_loss is not None
        assert set(note.seconds) == {"propagate", "score", "train"}
    # In the second stage the first task is over: its scans come back through the memory only.
    assert outcomes == [
        ("trained", "first", 3, 0),
        ("trained", "first", 3, 0),
        ("replay_only", None, 0, 3),
        ("trained", "second", 3, 3),
    ]
    state = load_state(hospital.store, plan.federation, 4)
    assert state.tasks_trained == {"first": 0, "second": 1}
    assert len(state.memory.entries) == 4
    assert {entry.task for entry in state.memory.entries} == {"first", "second"}


def test_the_note_counts_what_there_is(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    ref = SliceRef(ids_of(hospital, "second")[0], 2, 8)
    save_annotation(hospital.store, oracle(plan).paint(hospital.store, ref, (2,)))
    stage_one, stage_two = (ask(hospital, plan, number).note for number in (1, 3))
    # Of the two scans without a slice, and of the second task, the first stage knows nothing.
    assert stage_one.scans_per_task == {"first": 3}
    assert stage_one.voxels_per_task == {"first": 3 * 24 * 24 * 16}
    assert (stage_one.annotated_slices, stage_one.skipped) == (3, 0)
    assert stage_two.scans_per_task == {"first": 3, "second": 3}
    assert (stage_two.annotated_slices, stage_two.skipped) == (4, 2)
    assert (stage_two.task, stage_two.used) == ("second", 1)
    assert stage_two.quarantined == 0


def test_a_hospital_without_annotations_abstains(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_plan()
    update = ask(hospital, plan, 1)
    assert update.arrays == {}
    assert (update.note.outcome, update.note.num_examples) == ("abstained", 0)
    assert update.note.reason == "no annotated scan to train on"
    assert update.note.loss is None
    # The round is over all the same: asked again it gets the same answer.
    assert latest_round(hospital.store, plan.federation) == 1


def test_without_memory_a_finished_task_leaves_nothing_to_train_on(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan(replay={"budget_scans": 0})
    paint(hospital, plan, "first")
    assert ask(hospital, plan, 1).note.outcome == "trained"
    assert ask(hospital, plan, 3).note.outcome == "abstained"


def test_a_task_with_too_few_scans_waits(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle, paint: Paint
) -> None:
    hospital = make_hospital()
    plan = make_plan(training={"min_annotated_scans": 2})
    scan_id, other, _ = ids_of(hospital, "first")
    for ref, outcome in (
        (SliceRef(scan_id, 2, 8), "abstained"),
        (SliceRef(other, 2, 3), "trained"),
    ):
        save_annotation(hospital.store, oracle(plan).paint(hospital.store, ref, (1,)))
        number = latest_round(hospital.store, plan.federation) + 1
        assert ask(hospital, plan, number).note.outcome == outcome


def test_a_hospital_that_lags_behind_trains_its_task_in_the_stage_that_runs(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    assert ask(hospital, plan, 1).note.outcome == "abstained"
    paint(hospital, plan, "first")
    for number in (3, 4):
        note = ask(hospital, plan, number).note
        assert (note.outcome, note.task, note.replayed) == ("trained", "first", 0)
    assert load_state(hospital.store, plan.federation, 4).tasks_trained == {"first": 1}


@pytest.mark.parametrize(
    ("trained", "stage", "task", "remembered"),
    [
        ({}, 0, "first", []),
        ({}, 1, "second", ["a"]),
        ({"first": 0}, 0, "first", []),
        ({"first": 0}, 1, "second", ["a"]),
        ({"first": 0, "second": 1}, 1, "second", ["a"]),
        ({"second": 0}, 1, "first", ["b"]),
        ({"first": 0, "second": 0}, 1, None, ["a", "b"]),
    ],
)
def test_the_newest_open_task_is_chosen(
    make_plan: MakePlan,
    trained: dict[str, int],
    stage: int,
    task: str | None,
    remembered: list[str],
) -> None:
    memory = Memory((Remembered("a", "first", "g"), Remembered("b", "second", "g")))
    state = HospitalState("tiny", 1, trained, memory)
    labelled = Labelled({"first": ["a", "c"], "second": ["b", "d"]}, {})
    material = choose_material(make_plan(), stage, labelled, state)
    assert (material.task.name if material.task else None) == task
    if stage == 0:
        assert material.remembered == ["b"]
    else:
        assert material.remembered == remembered


def test_where_nothing_is_replayed_a_hospital_without_a_task_stays_out(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital = make_hospital()
    plan = make_plan(replay={"share": 0.0}, retention={"elastic_weight": 1.0})
    paint(hospital, plan, "first")
    first = ask(hospital, plan, 1).note
    assert (first.outcome, first.num_examples) == ("trained", first.used)
    later = ask(hospital, plan, 3)
    assert (later.note.outcome, later.note.num_examples, later.arrays) == ("abstained", 0, {})
    # With a task, what it remembers tells which weights matter, and counts for nothing else.
    paint(hospital, plan, "second")
    note = ask(hospital, plan, 4).note
    assert (note.outcome, note.replayed, note.num_examples) == ("trained", 0, note.used)


# Held back and spread ---------------------------------------------------------------------------


def test_a_flagged_scan_is_left_out_until_it_is_accepted_or_painted_again(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    store = hospital.store
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    one, other, third = ids_of(hospital, "first")
    save_review(store, one, "flagged", "anna", "wrong side")
    save_review(store, other, "flagged", "anna", "wrong side")
    note = ask(hospital, plan, 2).note
    assert (note.used, note.skipped) == (1, 2)
    # Nor does it come back through the memory.
    note = ask(hospital, plan, 3).note
    assert (note.outcome, note.replayed) == ("replay_only", 1)
    save_review(store, one, "accepted", "ben", "")
    save_annotation(store, latest_annotations(store, other)[0])
    assert find_labelled(store, plan, 0).training["first"] == sorted([one, other, third])


def test_held_back_scans_are_scored_and_never_trained_on(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan(training={"held_back_share": 0.5})
    paint(hospital, plan, "first", "second")
    kept = {name for task in plan.tasks for name in ids_of(hospital, task.name)}
    kept = {scan_id for scan_id in kept if plan.is_held_back(scan_id)}
    labelled = find_labelled(hospital.store, plan, 1)
    assert {found.ref.scan_id for held in labelled.held_back.values() for found in held} == kept
    trained_on = {scan_id for scans in labelled.training.values() for scan_id in scans}
    assert 0 < len(kept) < 6
    assert not trained_on & kept
    assert len(trained_on | kept) == 6
    for number in (1, 3):
        note = ask(hospital, plan, number).note
        held = labelled.held_back
        wanted = {t.name: len(held[t.name]) for t in plan.tasks[: 1 + number // 3] if held[t.name]}
        assert {score.task: score.cases for score in note.scores} == wanted
    memory = load_state(hospital.store, plan.federation, 3).memory
    assert {entry.scan_id for entry in memory.entries} <= trained_on
    # No label was spread in a held-back scan either.
    assert all(find_label_map(hospital.store, scan_id, plan.federation) is None for scan_id in kept)


def test_the_held_back_share_is_kept_by_hash(make_plan: MakePlan) -> None:
    names = [f"scan-{number}" for number in range(2000)]
    plans = [make_plan(training={"held_back_share": share}) for share in (0.0, 0.1, 0.3)]
    none, few, more = ({name for name in names if p.is_held_back(name)} for p in plans)
    assert not none
    # Five standard deviations of 2000 draws with chance 0.1 are 67.
    assert abs(len(few) - 200) < 67
    # A larger share keeps all that a smaller one keeps.
    assert few < more


def test_labels_are_spread_again_when_a_slice_is_repainted(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    store = hospital.store
    scan_id, untouched, _ = ids_of(hospital, "first")
    origins = [find_label_map(store, name, plan.federation) for name in (scan_id, untouched)]
    assert None not in origins
    (ref,) = annotated_refs(store, scan_id)
    mask = np.zeros((24, 24), dtype=np.uint8)
    mask[:3, :3] = 1
    save_annotation(store, SliceAnnotation(ref, mask, (1,), "someone", 1.0))
    ask(hospital, plan, 2)
    assert find_label_map(store, scan_id, plan.federation) != origins[0]
    assert find_label_map(store, untouched, plan.federation) == origins[1]
    np.testing.assert_array_equal(
        load_label_map(store, scan_id, plan.federation).hard()[ref.selection], mask
    )
