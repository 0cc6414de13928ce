"""A federation goes on after a withdrawal, without the scan."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hospital_rounds import ask, first_arrays, ids_of, request_for

from client.local_round import Hospital, answer
from client.own_correspondence import own_correspondence
from client.store.audit import verify_audit
from client.store.correspondence import load_learned
from client.store.forget import forget
from client.store.leftovers import find_leftovers
from client.store.rounds import load_state
from client.store.scans import list_scans
from client.store.uses import Use
from common.plan import FederationPlan
from common.updates import decode_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """Both tasks painted."""
    made = make_hospital()
    paint(made, make_plan(), "first", "second")
    return made


def test_rounds_go_on_without_the_scan(hospital: Hospital, make_plan: MakePlan) -> None:
    plan, arrays = make_plan(), first_arrays(make_plan())
    for number in (1, 2):
        arrays = ask(hospital, plan, number, arrays).arrays
    gone, *others = ids_of(hospital, "first")
    (proof,) = forget(hospital.store, gone)
    assert proof.uses == (Use(plan.federation, gone, "trained", 1, 2),)
    assert len(proof.replies) == 2
    assert proof.rows["label_maps"] == 1
    # The second task's stage replays the first: from memory, without the scan.
    update = ask(hospital, plan, 3, arrays)
    note = update.note
    assert (note.outcome, note.task, note.used, note.replayed) == ("trained", "second", 3, 2)
    assert note.scans_per_task == {"first": 2, "second": 3}
    memory = load_state(hospital.store, plan.federation, 3).memory
    assert gone not in {entry.scan_id for entry in memory.entries} | memory.offered
    assert {entry.scan_id for entry in memory.entries} >= set(others)
    assert find_leftovers(hospital.store) == []
    verify_audit(hospital.store)


def test_a_reply_that_was_trained_on_it_is_made_again_without_it(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan()
    request = request_for(plan, 1)
    before = answer(hospital, request)
    assert answer(hospital, request) == before
    forget(hospital.store, ids_of(hospital, "first")[0])
    after = answer(hospital, request)
    old, new = decode_update(before), decode_update(after)
    assert (old.note.used, new.note.used) == (3, 2)
    assert any(not np.array_equal(old.arrays[name], new.arrays[name]) for name in old.arrays)
    # From here on the same request has the same reply again.
    assert answer(hospital, request) == after


def test_the_hospitals_own_network_is_learned_anew(hospital: Hospital, make_plan: MakePlan) -> None:
    sizes = {"channels": 4, "layers": 1, "descriptor_length": 4, "crop_voxels": 8, "steps": 10}
    plan = make_plan(
        propagation={"candidates": ["patches", "correspondence"]},
        correspondence={**sizes, "batch_size": 1},
    )
    assert ask(hospital, plan, 1).note.outcome == "trained"
    gone = ids_of(hospital, "first")[0]
    (proof,) = forget(hospital.store, gone)
    assert proof.rows["correspondence"] == 10
    own_correspondence(hospital.store, plan, torch.device("cpu"))
    with hospital.store.read() as connection:
        (settings,) = {
            row["settings"] for row in connection.execute("SELECT settings FROM correspondence")
        }
    learned = load_learned(hospital.store, settings)[-1]
    assert set(learned.scans) == {scan.scan_id for scan in list_scans(hospital.store)}
    assert gone not in learned.scans
    assert ask(hospital, plan, 2).note.used == 2
