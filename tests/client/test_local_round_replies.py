"""What a hospital answers: only what was asked, and the same again after a kill."""

import json
from collections.abc import Callable

import numpy as np
from hospital_rounds import (
    ask,
    assert_same_arrays,
    events,
    first_arrays,
    ids_of,
    request_for,
    without_times,
)

from client.annotation.annotator import Annotator
from client.local_round import Hospital, answer, train_round
from client.round_material import find_labelled
from client.store.annotations import save_annotation
from client.store.audit import read_audit
from client.store.rounds import latest_round, load_state
from common.plan import FederationPlan
from common.scans import SliceRef
from common.updates import (
    RoundRequest,
    decode_update,
)

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
Paint = Callable[..., None]


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
