"""Rounds at a hospital: bytes in, bytes out, over a real store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospital_rounds import (
    ask,
    assert_same_arrays,
    first_arrays,
    ids_of,
    request_for,
    without_times,
)

from client.annotation.annotator import Annotator, annotated_refs
from client.local_round import Hospital, answer, train_round
from client.round_material import Labelled, choose_material, find_labelled
from client.store.annotations import latest_annotations, save_annotation
from client.store.audit import read_audit, verify_audit
from client.store.ingest import ingest_cases
from client.store.label_maps import find_label_map, load_label_map
from client.store.layouts import find_cases
from client.store.reviews import save_review
from client.store.rounds import HospitalState, Memory, Remembered, latest_round, load_state
from client.store.scans import find_scan, list_scans
from common.plan import FederationPlan
from common.scans import SliceAnnotation, SliceRef
from common.updates import (
    Action,
    RoundRequest,
    decode_update,
    encode_request,
)
from common.version import PROTOCOL, SOFTWARE

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
Paint = Callable[..., None]


def events(hospital: Hospital) -> list[str]:
    verify_audit(hospital.store)
    return [row.event for row in read_audit(hospital.store)]


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


# What crosses the wire ------------------------------------------------------------------------


def test_a_hello_is_greeted_and_leaves_no_trace(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_plan()
    update = ask(hospital, plan, 0, {}, action="hello")
    assert (update.note.outcome, update.note.hospital) == ("greeted", "north")
    assert update.arrays == {}
    assert latest_round(hospital.store, plan.federation) == 0


def test_a_reply_holds_exactly_the_tensors_that_came(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    sent = first_arrays(plan)
    came = ask(hospital, plan, 1, sent).arrays
    assert {name: (a.shape, a.dtype) for name, a in came.items()} == {
        name: (a.shape, a.dtype) for name, a in sent.items()
    }
    for role in ("segmenter", "student"):
        assert any((came[name] != sent[name]).any() for name in sent if name.startswith(role))


def test_the_audit_says_what_left(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    request = request_for(plan, 1)
    reply = answer(hospital, request)
    (row,) = read_audit(hospital.store)
    details, update = json.loads(row.details), decode_update(reply)
    assert details["bytes"] == len(reply)
    assert details["tensors"] == {
        name: f"{array.dtype} {array.shape}" for name, array in update.arrays.items()
    }
    assert details["note"] == update.note.model_dump(mode="json")


def test_the_same_request_gets_the_same_bytes_and_counts_once(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    request = request_for(plan, 1)
    replies = [answer(hospital, request) for _ in range(3)]
    assert replies[0] == replies[1] == replies[2]
    # Whatever leaves is written down each time; trained was once.
    assert events(hospital) == ["sending"] * 3
    assert sum(load_state(hospital.store, plan.federation, 1).memory.seen.values()) == 3


def test_scans_painted_during_a_stage_enter_the_memory_too(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    ref = SliceRef(ids_of(hospital, "first")[0], 2, 8)
    save_annotation(hospital.store, oracle(plan).paint(hospital.store, ref, (1,)))
    ask(hospital, plan, 1)
    paint(hospital, plan, "first")
    ask(hospital, plan, 2)
    memory = load_state(hospital.store, plan.federation, 2).memory
    assert {entry.scan_id for entry in memory.entries} == set(ids_of(hospital, "first"))


def test_a_held_back_scan_may_have_two_slices(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan(training={"held_back_share": 0.5})
    paint(hospital, plan, "first", "second")
    for scan_id in ids_of(hospital, "first"):
        ref = SliceRef(scan_id, 2, 3)
        save_annotation(hospital.store, oracle(plan).paint(hospital.store, ref, (1,)))
    note = ask(hospital, plan, 1).note
    assert note.outcome == "trained"
    assert note.skipped == 0
    assert note.annotated_slices >= 2 * len(ids_of(hospital, "first")) - 1


def test_another_request_for_the_same_round_starts_from_the_round_before(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle, paint: Paint
) -> None:
    # As when a coordinator resumes from a checkpoint, and more was painted in the meantime.
    hospital, plan = make_hospital(), make_plan()
    ref = SliceRef(ids_of(hospital, "first")[0], 2, 8)
    save_annotation(hospital.store, oracle(plan).paint(hospital.store, ref, (1,)))
    first = ask(hospital, plan, 1)
    assert (first.note.used, first.note.replayed) == (1, 0)
    paint(hospital, plan, "first")
    other = {name: array * np.float32(0.5) for name, array in first_arrays(plan).items()}
    second = ask(hospital, plan, 1, other)
    assert (second.note.used, second.note.replayed) == (3, 0)
    # Nothing of the first answer is left: all three scans are offered to an empty memory.
    memory = load_state(hospital.store, plan.federation, 1).memory
    assert sum(memory.seen.values()) == len(memory.entries) == 3
    assert events(hospital) == ["sending", "sending"]


def test_scoring_trains_nothing_and_changes_nothing(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan(training={"held_back_share": 0.5})
    paint(hospital, plan, "first", "second")
    update = ask(hospital, plan, 4, action="score")
    assert (update.note.outcome, update.arrays) == ("scored", {})
    held_back = find_labelled(hospital.store, plan, 1).held_back
    wanted = {task: len(found) for task, found in held_back.items() if found}
    assert {score.task: score.cases for score in update.note.scores} == wanted
    assert sum(wanted.values()) > 0
    assert latest_round(hospital.store, plan.federation) == 0
    assert events(hospital) == ["sending"]


# Determinism and resuming -----------------------------------------------------------------------


def test_a_hospital_killed_before_the_commit_answers_as_if_nothing_had_happened(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan()
    steady, killed = make_hospital("steady"), make_hospital("killed")
    arrays = first_arrays(plan)
    for number in (1, 2, 3, 4):
        for hospital in (steady, killed):
            paint(hospital, plan, "first" if number < 4 else "second")
        request = RoundRequest(action="train", plan=plan, round=number)
        train_round(killed, request, arrays)  # and the power goes off
        assert latest_round(killed.store, plan.federation) == number - 1
        wanted = ask(steady, plan, number, arrays)
        found = ask(killed, plan, number, arrays)
        assert_same_arrays(wanted.arrays, found.arrays)
        assert without_times(wanted.note) == without_times(found.note)
        assert load_state(steady.store, plan.federation, number) == load_state(
            killed.store, plan.federation, number
        )
        arrays = wanted.arrays


def test_a_round_that_was_missed_is_no_hindrance(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    note = ask(hospital, plan, 4).note
    assert (note.outcome, note.replayed) == ("replay_only", 3)


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
    assert all(find_label_map(hospital.store, scan_id) is None for scan_id in kept)


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
    origins = [find_label_map(store, name) for name in (scan_id, untouched)]
    assert None not in origins
    (ref,) = annotated_refs(store, scan_id)
    mask = np.zeros((24, 24), dtype=np.uint8)
    mask[:3, :3] = 1
    save_annotation(store, SliceAnnotation(ref, mask, (1,), "someone", 1.0))
    ask(hospital, plan, 2)
    assert find_label_map(store, scan_id) != origins[0]
    assert find_label_map(store, untouched) == origins[1]
    np.testing.assert_array_equal(load_label_map(store, scan_id).hard()[ref.selection], mask)


# What goes wrong --------------------------------------------------------------------------------


def assert_tells_nothing(reply: bytes, hospital: Hospital) -> None:
    private = [str(hospital.store.folder), hospital.store.folder.name, "patient-", ".npy"]
    for scan in list_scans(hospital.store):
        private += [scan.scan_id, scan.case, scan.image_key[:12]]
    assert not [text for text in private if text.encode() in reply]


def test_a_lost_array_fails_the_round_and_tells_nothing(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    scan = find_scan(hospital.store, ids_of(hospital, "first")[0])
    (lost,) = (hospital.store.folder / "arrays").rglob(f"{scan.image_key}.npy")
    kept = lost.read_bytes()
    lost.unlink()
    request = request_for(plan, 1)
    reply = answer(hospital, request)
    update = decode_update(reply)
    assert update.arrays == {}
    assert update.note.outcome == "failed"
    assert update.note.reason == "StoreError: see the hospital's log"
    assert_tells_nothing(reply, hospital)
    (row,) = read_audit(hospital.store)
    assert row.event == "failed"
    assert "Traceback" in row.details
    assert scan.image_key[:12] in row.details
    # Nothing is committed, so that the same request is tried again once the file is back.
    assert latest_round(hospital.store, plan.federation) == 0
    lost.write_bytes(kept)
    assert decode_update(answer(hospital, request)).note.outcome == "trained"


def test_an_error_that_is_none_of_ours_tells_not_even_its_name(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = first_arrays(plan)
    name = next(iter(arrays))
    del arrays[name]  # torch refuses to load the rest
    reply = answer(hospital, request_for(plan, 1, arrays))
    assert decode_update(reply).note.reason == "see the hospital's log"
    assert_tells_nothing(reply, hospital)
    assert events(hospital) == ["failed"]


def test_tensors_of_another_type_are_refused_before_they_leave(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = {name: array.astype(np.float64) for name, array in first_arrays(plan).items()}
    note = ask(hospital, plan, 1, arrays).note
    assert (note.outcome, note.reason) == ("failed", "EgressError: see the hospital's log")
    assert latest_round(hospital.store, plan.federation) == 0


def test_weights_that_are_not_finite_never_leave(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = first_arrays(plan)
    for array in arrays.values():
        array.fill(np.nan)
    update = ask(hospital, plan, 1, arrays)
    assert (update.note.outcome, update.arrays) == ("failed", {})


@pytest.mark.parametrize("action", ["hello", "train"])
@pytest.mark.parametrize("other", [{"protocol": 9}, {"software": "9.0.0"}, {"protocol": 2}])
def test_a_coordinator_of_another_version_is_told_both_and_can_read_it(
    make_hospital: MakeHospital, make_plan: MakePlan, action: Action, other: dict[str, Any]
) -> None:
    hospital, plan = make_hospital(), make_plan()
    request = RoundRequest(action=action, plan=plan, round=1).model_copy(update=other)
    reply = answer(hospital, encode_request(request, {}))
    length = int.from_bytes(reply[:8], "little")
    note = json.loads(json.loads(reply[8 : 8 + length])["__metadata__"]["json"])
    reason = (
        f"the hospital runs OneSlice {SOFTWARE} (protocol {PROTOCOL}), the coordinator "
        f"{request.software} (protocol {request.protocol}); at the hospital: "
        f"pip install oneslice=={request.software}"
    )
    keys = {"hospital": hospital.store.hospital, "outcome": "failed", "reason": reason}
    assert note == {**keys, "protocol": request.protocol}, "in the coordinator's own protocol"
    assert len(reason) <= 200
    assert "the coordinator" in read_audit(hospital.store)[0].details
    assert_tells_nothing(reply, hospital)
    rows = len(read_audit(hospital.store))
    assert answer(hospital, encode_request(request, {})) == reply
    assert len(read_audit(hospital.store)) == rows, "asked again and again, it is written once"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"no request at all",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (21).to_bytes(8, "little") + b'{"__metadata__":null}',
    ],
    ids=["empty", "text", "huge-header", "list", "null"],
)
def test_bytes_that_are_no_request_are_answered_too(
    make_hospital: MakeHospital, request_bytes: bytes
) -> None:
    hospital = make_hospital()
    note = decode_update(answer(hospital, request_bytes)).note
    assert (note.outcome, note.reason) == ("failed", "SettingsError: see the hospital's log")
    assert events(hospital) == ["failed"]


def test_a_store_that_is_gone_is_answered_too(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_plan()
    hospital.store.catalog.write_bytes(b"this is no catalog, and was one just now")
    reply = answer(hospital, request_for(plan, 1))
    assert decode_update(reply).note.reason == "StoreError: see the hospital's log"
    assert str(hospital.store.folder).encode() not in reply


def test_a_quarantined_case_is_counted_and_in_nobodys_way(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, tmp_path: Path
) -> None:
    hospital, plan = make_hospital(), make_plan()
    folder = tmp_path / "bad"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "patient-bad.nii.gz").write_bytes(b"no scan")
    dataset = find_cases(folder)
    ingest_cases(hospital.store, dataset, dataset.cases, task=plan.tasks[0])
    paint(hospital, plan, "first")
    note = ask(hospital, plan, 1).note
    assert (note.outcome, note.used, note.quarantined) == ("trained", 3, 1)
