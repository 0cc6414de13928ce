"""Rounds of self-learning at a hospital: bytes in, bytes out, nothing painted anywhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from same_states import same_arrays
from small_correspondence import SMALL_CORRESPONDENCE

from client.annotation.annotator import Annotator, paint_asked_slices
from client.local_round import Hospital, answer
from client.outgoing import let_out
from client.self_learning import learn_round
from client.store.audit import read_audit
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.rounds import latest_round, load_state
from common.errors import EgressError
from common.plan import FederationPlan
from common.updates import (
    Action,
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    decode_update,
    encode_request,
    trained_in,
)
from server.rounds import first_state

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
SMALL = {**SMALL_CORRESPONDENCE, "rounds": 2, "steps": 4}


@pytest.fixture
def make_learning(make_plan: MakePlan) -> MakePlan:
    """Two rounds of self-learning before the two tasks; `changes` go into the plan."""

    def make(correspondence: dict[str, Any] | None = None, **changes: Any) -> FederationPlan:
        spread = {"candidates": ["patches", "correspondence"]}
        settings = {**SMALL, **(correspondence or {})}
        return make_plan(correspondence=settings, propagation=spread, **changes)

    return make


def _request(
    plan: FederationPlan, number: int, arrays: Arrays, *, action: Action = "train"
) -> bytes:
    return encode_request(RoundRequest(action=action, plan=plan, round=number), arrays)


def _ask(hospital: Hospital, plan: FederationPlan, number: int, arrays: Arrays) -> LocalUpdate:
    return decode_update(answer(hospital, _request(plan, number, arrays)))


def test_a_hospital_learns_from_all_its_scans_and_sends_one_network(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_learning(training={"held_back_share": 0.3})
    sent = trained_in(plan, 1, first_state(plan).arrays)
    update = _ask(hospital, plan, 1, sent)
    note = update.note
    assert (note.outcome, note.reason, note.round) == ("self_learned", "", 1)
    # Three scans of either task; nobody has painted a slice, and nothing is held back.
    assert (note.num_examples, note.used, note.skipped) == (6, 6, 0)
    assert note.scans_per_task == {"first": 3, "second": 3}
    assert note.voxels_per_task == dict.fromkeys(("first", "second"), 3 * 24 * 24 * 16)
    assert (note.scores, note.student_loss, note.task) == ((), None, None)
    assert note.loss is not None
    assert note.loss > 0
    assert set(note.seconds) == {"train"}
    assert update.arrays.keys() == sent.keys()
    assert not same_arrays(update.arrays, sent)
    (row,) = [row for row in read_audit(hospital.store) if row.event == "sending"]
    assert set(json.loads(row.details)["tensors"]) == set(sent)


def test_a_volume_that_serves_two_tasks_teaches_once(
    make_hospital: MakeHospital, make_learning: MakePlan, tmp_path: Path
) -> None:
    hospital, plan = make_hospital(), make_learning()
    dataset = find_cases(tmp_path / "cellar-first")
    ingest_cases(hospital.store, dataset, dataset.cases, task=plan.tasks[1])
    note = _ask(hospital, plan, 1, trained_in(plan, 1, first_state(plan).arrays)).note
    assert (note.used, note.skipped, note.scans_per_task) == (6, 0, {"first": 3, "second": 3})


def test_other_tensors_that_come_along_stay_here(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    plan = make_learning()
    arrays = first_state(plan).arrays
    whole = _ask(make_hospital("one"), plan, 1, arrays)
    alone = _ask(make_hospital("other"), plan, 1, trained_in(plan, 1, arrays))
    assert same_arrays(whole.arrays, alone.arrays)


def test_a_model_that_was_not_asked_for_may_not_leave(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    store, plan = make_hospital().store, make_learning()
    arrays = first_state(plan).arrays
    for number, uninvited in ((1, "segmenter/"), (3, "correspondence/")):
        note = Note(hospital="north", outcome="trained", round=number, num_examples=1)
        with pytest.raises(EgressError, match=rf"not asked for \['{uninvited}"):
            let_out(store, LocalUpdate(arrays, note), trained_in(plan, number, arrays), plan)
    assert read_audit(store) == []


def test_the_same_request_gets_the_stored_reply(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_learning()
    request = _request(plan, 1, trained_in(plan, 1, first_state(plan).arrays))
    first = answer(hospital, request)
    # Trained again, the seconds at least would differ.
    assert answer(hospital, request) == first
    assert latest_round(hospital.store, plan.federation) == 1


def test_a_hospital_killed_before_the_commit_answers_as_if_nothing_had_happened(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    plan = make_learning()
    steady, killed = make_hospital("steady"), make_hospital("killed")
    arrays = trained_in(plan, 1, first_state(plan).arrays)
    for number in (1, 2):
        request = RoundRequest(action="train", plan=plan, round=number)
        learn_round(killed.store, request, arrays, torch.device("cpu"))  # and the power goes off
        wanted, found = (_ask(one, plan, number, arrays) for one in (steady, killed))
        assert same_arrays(wanted.arrays, found.arrays)
        assert load_state(steady.store, plan.federation, number) == load_state(
            killed.store, plan.federation, number
        )
        arrays = wanted.arrays


def test_two_rounds_learn_different_things(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_learning()
    arrays = trained_in(plan, 1, first_state(plan).arrays)
    one, two = (_ask(hospital, plan, number, arrays) for number in (1, 2))
    assert not same_arrays(one.arrays, two.arrays)


def test_a_scan_too_short_for_a_chain_is_left_out_and_counted(
    make_hospital: MakeHospital, make_learning: MakePlan, tmp_path: Path
) -> None:
    hospital, plan = make_hospital(), make_learning()
    rng = np.random.default_rng(0)
    for kind, array in (
        ("images", rng.normal(size=(24, 24, 2)).astype(np.float32)),
        ("labels", np.ones((24, 24, 2), np.uint8)),
    ):
        (tmp_path / "short" / kind).mkdir(parents=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "short" / kind / "two.nii.gz")
    dataset = find_cases(tmp_path / "short")
    ingest_cases(hospital.store, dataset, dataset.cases, task=plan.tasks[1])
    note = _ask(hospital, plan, 1, trained_in(plan, 1, first_state(plan).arrays)).note
    assert (note.num_examples, note.used, note.skipped) == (6, 6, 1)
    assert note.scans_per_task == {"first": 3, "second": 4}


def test_a_hospital_without_a_scan_that_is_fit_abstains_and_says_so(
    make_hospital: MakeHospital, make_learning: MakePlan
) -> None:
    hospital = make_hospital()
    tasks = [task.model_dump() for task in make_learning().tasks]
    other = make_learning(tasks=[{**task, "name": f"other-{task['name']}"} for task in tasks])
    arrays = trained_in(other, 1, first_state(other).arrays)
    update = _ask(hospital, other, 1, arrays)
    assert update.arrays == {}
    assert (update.note.outcome, update.note.num_examples) == ("abstained", 0)
    assert update.note.reason == "no scan of at least 3 slices to learn from"
    assert update.note.loss is None
    assert latest_round(hospital.store, other.federation) == 1


def test_the_stream_begins_where_self_learning_ends(
    make_hospital: MakeHospital,
    make_learning: MakePlan,
    oracle: Callable[[FederationPlan], Annotator],
) -> None:
    hospital, plan = make_hospital(), make_learning()
    arrays = first_state(plan).arrays
    for number in (1, 2):
        arrays |= _ask(hospital, plan, number, trained_in(plan, number, arrays)).arrays
    assert load_state(hospital.store, plan.federation, 2).tasks_trained == {}
    paint_asked_slices(hospital.store, plan, plan.tasks[0], oracle(plan))
    update = _ask(hospital, plan, 3, arrays)
    assert (update.note.outcome, update.note.task, update.note.used) == ("trained", "first", 3)
    assert update.arrays.keys() == trained_in(plan, 3, arrays).keys()
    scored = decode_update(answer(hospital, _request(plan, 6, arrays, action="score")))
    assert (scored.note.outcome, scored.arrays) == ("scored", {})
    assert all(np.isfinite(array).all() for array in update.arrays.values())
