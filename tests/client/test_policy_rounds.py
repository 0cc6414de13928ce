"""The site's own policy against real rounds: the coordinator cannot ask it away."""

import json
import time
from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest
import torch
from hospital_rounds import ask, assert_same_arrays, first_arrays, ids_of, request_for

from client.admission import FREE, NOT_ALLOWED, STOPPED_EARLY, Terms
from client.learning.round_clock import NO_LIMIT, RoundClock
from client.local_round import Hospital, answer
from client.outgoing import let_out
from client.policy import ALLOWS_ALL, Policy
from client.slice_doubt import note_doubts
from client.store.audit import newest_row, read_audit, verify_audit
from client.store.label_maps import find_label_map
from client.store.rounds import latest_round, load_state
from client.store.store import Store
from client.store.uses import Use, find_uses
from common.errors import EgressError
from common.networks.correspondence import build_correspondence
from common.networks.unet import SEGMENTER, build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.updates import CORRESPONDENCE, Arrays, LocalUpdate, Note, decode_update, trained_in
from server.strategy import check_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """Both tasks painted."""
    made = make_hospital()
    paint(made, make_plan(), "first", "second")
    return made


def set_policy(hospital: Hospital, text: str) -> None:
    (hospital.store.folder / "policy.toml").write_text(text, encoding="utf-8")


def hours_without_now() -> str:
    """A span that begins in two hours."""
    first, last = (datetime.now() + timedelta(hours=hours) for hours in (2, 3))
    return f'hours = ["{first:%H:%M}-{last:%H:%M}"]'


def assert_stays_out(
    hospital: Hospital, plan: FederationPlan, update: LocalUpdate, why: str
) -> None:
    """The reply says nothing but that; the hospital's own log says why; nothing is committed."""
    wanted = Note(
        hospital="north",
        outcome="abstained",
        reason=NOT_ALLOWED,
        round=update.note.round,
        withheld=update.note.withheld,
    )
    assert update == LocalUpdate({}, wanted)
    check_update(update, "north", first_arrays(plan), update.note.round)
    row = newest_row(hospital.store, "stayed_out")
    assert row is not None
    assert why in json.loads(row.details)["why"]
    assert latest_round(hospital.store, plan.federation) == 0
    verify_audit(hospital.store)


# Before anything is computed --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (hours_without_now(), "outside of `hours`"),
        ("min_annotated_scans = 4", "3 scans are annotated, `min_annotated_scans` is 4"),
        ('tasks = ["second"]', "`tasks` names none of this round's: ['second']"),
        ("tasks = []", "`tasks` names none"),
        ('networks = ["segmenter"]', "sends ['segmenter', 'student'], `networks` lets"),
        ('networks = ["student", "correspondence"]', "sends ['segmenter', 'student']"),
        ("memory_gb = 0.1", "needs about 0.7 GB, `memory_gb` is 0.1"),
    ],
)
def test_a_round_that_is_not_allowed_is_not_begun(
    hospital: Hospital, make_plan: MakePlan, policy: str, why: str
) -> None:
    plan = make_plan()
    set_policy(hospital, policy)
    assert_stays_out(hospital, plan, ask(hospital, plan, 1), why)
    for scan_id in ids_of(hospital, "first"):
        assert find_label_map(hospital.store, scan_id, plan.federation) is None
    # The same request is answered in full once it is allowed.
    set_policy(hospital, "")
    assert ask(hospital, plan, 1).note.outcome == "trained"


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (hours_without_now(), "outside of `hours`"),
        ("min_annotated_scans = 4", "3 scans are annotated"),
        ('metrics = ["loss"]', "asks for scores alone, and `metrics` does not name them"),
    ],
)
def test_no_score_leaves_either(
    hospital: Hospital, make_plan: MakePlan, policy: str, why: str
) -> None:
    plan = make_plan(training={"held_back_share": 0.5})
    set_policy(hospital, policy)
    assert_stays_out(hospital, plan, ask(hospital, plan, 1, action="score"), why)


def test_a_broken_policy_answers_nothing_until_it_is_mended(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan()
    set_policy(hospital, "hours = [")
    for action in ("hello", "score", "train"):
        update = ask(hospital, plan, 1, action=action)
        assert (update.note.outcome, update.arrays) == ("failed", {})
        assert update.note.reason == "SettingsError: see the hospital's log"
    assert latest_round(hospital.store, plan.federation) == 0
    set_policy(hospital, "hours = []")
    assert ask(hospital, plan, 1).note.outcome == "trained"


def test_a_hospital_that_stays_out_greets_all_the_same(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    """Otherwise it would be out of the federation for good."""
    set_policy(hospital, hours_without_now())
    update = ask(hospital, make_plan(), 0, {}, action="hello")
    names = {"organ": ("value 1",), "lesion": ("value 2",)}  # its scans' own labels have no names
    assert update == LocalUpdate({}, Note(hospital="north", outcome="greeted", label_names=names))


def test_a_stored_reply_keeps_to_the_policy_of_now(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan()
    request = request_for(plan, 1)
    first = decode_update(answer(hospital, request))
    set_policy(hospital, hours_without_now())
    assert decode_update(answer(hospital, request)).note.reason == NOT_ALLOWED
    set_policy(hospital, 'metrics = ["used"]')
    again = decode_update(answer(hospital, request))
    assert_same_arrays(first.arrays, again.arrays)
    assert (again.note.loss, again.note.used) == (None, first.note.used)
    assert latest_round(hospital.store, plan.federation) == 1


# What leaves ------------------------------------------------------------------------------------


def test_numbers_that_are_kept_back_do_not_leave_and_the_server_takes_the_rest(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan(training={"held_back_share": 0.4})
    set_policy(hospital, 'metrics = ["scores", "used"]')
    update = ask(hospital, plan, 1)
    note = update.note
    check_update(update, "north", first_arrays(plan), 1)
    assert (note.outcome, note.loss, note.student_loss, note.seconds) == ("trained", None, None, {})
    assert (note.scans_per_task, note.voxels_per_task, note.quarantined) == ({}, {}, 0)
    assert note.used == note.num_examples > 0
    assert "loss" in note.withheld
    assert "used" not in note.withheld
    row = newest_row(hospital.store, "sending")
    assert row is not None
    assert json.loads(row.details)["note"] == note.model_dump(mode="json")


def test_the_last_gate_holds_whatever_came_before(store_of: Store, make_plan: MakePlan) -> None:
    plan = make_plan()
    arrays = first_arrays(plan)
    (store_of.folder / "policy.toml").write_text('networks = ["segmenter"]', encoding="utf-8")
    note = Note(hospital="north", outcome="trained", num_examples=1)
    with pytest.raises(EgressError, match=r"other networks than \['segmenter'\]"):
        let_out(store_of, LocalUpdate(arrays, note), arrays, plan)
    assert read_audit(store_of) == []


@pytest.fixture
def store_of(make_hospital: MakeHospital) -> Store:
    """A hospital's store, nothing painted."""
    return make_hospital().store


# Which scans ------------------------------------------------------------------------------------


def test_a_task_that_is_not_allowed_is_not_touched(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan(training={"held_back_share": 0.0})
    for number in (1, 2):
        assert ask(hospital, plan, number).note.task == "first"
    with hospital.store.connect() as connection:
        for row in (("first", "a"), ("first", "b"), ("second", "c")):
            connection.execute("INSERT INTO quarantine VALUES (?, ?, 'damaged')", row)
    set_policy(hospital, 'tasks = ["second"]')
    note = ask(hospital, plan, 3).note
    assert note.quarantined == 1
    # The memory holds scans of the first task; none of them is replayed any more.
    assert (note.outcome, note.task, note.used, note.replayed) == ("trained", "second", 3, 0)
    assert set(note.scans_per_task) == {"second"}
    for scan_id in ids_of(hospital, "first"):
        assert find_uses(hospital.store, scan_id) == [
            Use(plan.federation, scan_id, "trained", 1, 2)
        ]
    for scan_id in ids_of(hospital, "second"):
        assert find_uses(hospital.store, scan_id) == [
            Use(plan.federation, scan_id, "trained", 3, 3)
        ]


def test_no_model_is_made_of_fewer_scans_than_the_policy_demands(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    """Three of six annotated scans are of the task of the round, and the memory holds two."""
    plan = make_plan(replay={"budget_scans": 2})
    assert ask(hospital, plan, 1).note.used == 3
    set_policy(hospital, "min_annotated_scans = 4")
    update = ask(hospital, plan, 3)
    assert (update.note.outcome, update.arrays) == ("abstained", {})
    set_policy(hospital, "min_annotated_scans = 3")
    assert ask(hospital, plan, 4).note.used == 3
    assert len(load_state(hospital.store, plan.federation, 4).memory.entries) == 2


# How long ---------------------------------------------------------------------------------------


def test_training_stops_at_the_time_limit_and_the_round_says_so(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan(training={"steps_per_round": 100_000, "student_steps_per_round": 100_000})
    arrays = first_arrays(plan)
    # The labels are made before, so that the limit falls into the training on any machine.
    ask(hospital, make_plan(name="before"), 1)
    set_policy(hospital, "seconds_per_round = 3")
    update = ask(hospital, plan, 1, arrays)
    assert (update.note.outcome, update.note.reason) == ("trained", STOPPED_EARLY)
    assert update.note.loss is not None
    assert update.note.student_loss is not None
    check_update(update, "north", arrays, 1)
    for role in ("segmenter", "student"):
        names = [name for name in arrays if name.startswith(role)]
        assert any(not np.array_equal(update.arrays[name], arrays[name]) for name in names)
    assert latest_round(hospital.store, plan.federation) == 1


def test_a_segmenter_that_was_stopped_is_told_although_the_student_got_all_its_steps(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan(training={"steps_per_round": 100_000, "student_steps_per_round": 0})
    ask(hospital, make_plan(name="before"), 1)
    set_policy(hospital, "seconds_per_round = 6")
    note = ask(hospital, plan, 1).note
    assert (note.reason, note.student_loss) == (STOPPED_EARLY, None)


def test_without_time_for_one_step_the_hospital_stays_out_and_keeps_the_labels(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan()
    set_policy(hospital, "seconds_per_round = 1e-9")
    assert_stays_out(hospital, plan, ask(hospital, plan, 1), "allow more seconds_per_round")
    assert find_label_map(hospital.store, ids_of(hospital, "first")[0], plan.federation) is None
    set_policy(hospital, "seconds_per_round = 600")
    update = ask(hospital, plan, 1)
    assert (update.note.outcome, update.note.reason) == ("trained", "")


def test_looking_for_doubtful_slices_keeps_to_tasks_and_time(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    task = {"classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 2}
    plan = make_plan(tasks=[{"name": name, **task} for name in ("third", "second")])
    with hospital.store.connect() as connection:
        connection.execute("DELETE FROM annotations")
    given = (hospital.store, plan, 3, build_networks(plan)[SEGMENTER], torch.device("cpu"))
    assert note_doubts(*given, Terms(Policy(tasks=("third",)), NO_LIMIT)) == 0
    assert note_doubts(*given, Terms(ALLOWS_ALL, RoundClock(time.monotonic()))) == 0
    assert note_doubts(*given, FREE) == 3


# Self-learning ----------------------------------------------------------------------------------


def self_learning(make_plan: MakePlan) -> FederationPlan:
    return make_plan(
        propagation={"candidates": ["patches", "correspondence"]},
        correspondence={
            "rounds": 1, "steps": 2, "batch_size": 2, "crop_voxels": 8, "channels": 4, "layers": 1,
            "descriptor_length": 4,
        },
    )  # fmt: skip


def correspondence_arrays(plan: FederationPlan) -> Arrays:
    network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
    return trained_in(plan, 1, networks_to_arrays({CORRESPONDENCE: network}))


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ('networks = ["segmenter", "student"]', "sends ['correspondence']"),
        ("min_annotated_scans = 7", "6 scans are fit to learn from"),
        ("seconds_per_round = 1e-9", "allow more seconds_per_round"),
        ("memory_gb = 0.1", "`memory_gb` is 0.1"),
    ],
)
def test_self_learning_keeps_to_the_policy(
    hospital: Hospital, make_plan: MakePlan, policy: str, why: str
) -> None:
    plan = self_learning(make_plan)
    arrays = correspondence_arrays(plan)
    set_policy(hospital, policy)
    update = ask(hospital, plan, 1, arrays)
    assert update.note.reason == NOT_ALLOWED
    row = newest_row(hospital.store, "stayed_out")
    assert row is not None
    assert why in json.loads(row.details)["why"]
    assert latest_round(hospital.store, plan.federation) == 0


def test_self_learning_reads_only_allowed_tasks(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = self_learning(make_plan)
    set_policy(hospital, 'tasks = ["second"]')
    note = ask(hospital, plan, 1, correspondence_arrays(plan)).note
    assert (note.outcome, note.used) == ("self_learned", 3)
    assert set(note.scans_per_task) == {"second"}
    (seen,) = {
        use.part for one in ids_of(hospital, "second") for use in find_uses(hospital.store, one)
    }
    assert seen == "self_learned"
    assert not any(find_uses(hospital.store, one) for one in ids_of(hospital, "first"))


def test_no_more_models_leave_than_the_plan_has_rounds_and_the_policy_adds(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    set_policy(hospital, "more_models = 1")
    plan = make_plan()
    request = request_for(plan, 1, first_arrays(plan))
    # The first round over and over, each time with other weights.
    for push in range(plan.num_rounds + 1):
        arrays = {name: array + push for name, array in first_arrays(plan).items()}
        update = decode_update(answer(hospital, request_for(plan, 1, arrays)))
        assert update.note.outcome == "trained"
    again = decode_update(answer(hospital, request_for(plan, 1, arrays)))
    assert again.note.outcome == "trained", "the stored reply is no further model"
    refused = decode_update(answer(hospital, request))
    assert (refused.note.outcome, refused.arrays) == ("abstained", {})
    row = newest_row(hospital.store, "stayed_out")
    assert row is not None
    assert "`more_models` allows 1 more" in json.loads(row.details)["why"]
