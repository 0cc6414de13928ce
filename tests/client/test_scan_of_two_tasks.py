"""A hospital paints scans that it has already for a second task: of each a scan for either."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hospital_rounds import ask, ids_of
from running_page import running

from client.annotate import HospitalLabeller
from client.annotation.annotator import Annotator
from client.annotation.import_masks import Wanted, import_mask
from client.local_round import Hospital
from client.policy import Policy
from client.round_material import choose_material, find_labelled
from client.store.annotations import latest_annotations, save_annotation
from client.store.forget import forget
from client.store.identities import Identity, save_identity
from client.store.ingest import ingest_cases
from client.store.label_maps import find_label_map, load_label_map
from client.store.layouts import find_cases
from client.store.local_names import local_names, save_local_names
from client.store.rounds import load_state
from client.store.scans import find_scan, list_scans, read_reference
from client.store.status import count_annotated_scans
from client.store.uses import find_uses
from common.errors import StoreError
from common.plan import FederationPlan
from common.scans import SliceRef, volume_of

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, tmp_path: Path) -> Hospital:
    """Three scans of the first task, which the second has, too, besides three of its own."""
    made, dataset = make_hospital(), find_cases(tmp_path / "cellar-first")
    report = ingest_cases(made.store, dataset, dataset.cases, task=make_plan().tasks[1])
    assert (report.added, report.serve_others) == (3, 3)
    return made


def rounds(hospital: Hospital, plan: FederationPlan, *numbers: int) -> None:
    for number in numbers:
        assert ask(hospital, plan, number).note.outcome == "trained"


def test_the_second_stage_learns_the_new_class_on_them_and_replays_the_old(
    hospital: Hospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan()
    paint(hospital, plan, "first", "second")
    rounds(hospital, plan, 1, 2)
    note = ask(hospital, plan, 3).note
    # Six of the second task, three of them volumes that the memory has for the first.
    assert (note.task, note.used, note.replayed) == ("second", 6, 3)
    first, second = ids_of(hospital, "first"), ids_of(hospital, "second")
    assert set(first) < {volume_of(one) for one in second}
    for ids, classes in ((first, (1,)), (second, (2,))):
        for one in ids:
            assert load_label_map(hospital.store, one, plan.federation).classes == classes
    # Each scan has its own chance of a place.
    memory = load_state(hospital.store, plan.federation, 3).memory
    assert memory.offered == {*first, *second}
    assert len(memory.entries) == plan.replay.budget_scans


def test_slices_that_were_painted_for_both_tasks_teach_both_classes(
    hospital: Hospital, make_plan: MakePlan, oracle: Callable[..., Annotator]
) -> None:
    store, plan = hospital.store, make_plan()
    for scan in list_scans(store):
        looked_for = plan.class_indexes(plan.task_named(scan.task))
        save_annotation(store, oracle(plan).paint(store, SliceRef(scan.scan_id, 2, 8), looked_for))
    # While the lesion is untaught it is left out; the organ's stage goes as ever.
    arrays = ask(hospital, plan, 1).arrays
    assert all(np.isfinite(array).all() for array in arrays.values())
    rounds(hospital, plan, 2, 3)
    first, second = ids_of(hospital, "first"), ids_of(hospital, "second")
    shared = {f"{one}-second" for one in first}
    for one in (*first, *second):
        labels = load_label_map(store, one, plan.federation)
        truth = read_reference(store, one, plan)[:, :, 8]
        wanted = (1, 2) if one in {*first, *shared} else (2,)
        assert labels.classes == wanted
        np.testing.assert_array_equal(
            labels.hard()[:, :, 8], np.where(np.isin(truth, wanted), truth, 0)
        )
        assert np.asarray(labels.weight)[:, :, 8].all()
    made = find_label_map(store, first[0], plan.federation)
    labeller = HospitalLabeller(store, plan, torch.device("cpu"))
    # The page shows the labels that the rounds learn from, and does not make others.
    assert labeller.spread(first[0]).sentence == ""
    assert find_label_map(store, first[0], plan.federation) == made


def test_a_volume_that_judges_one_task_trains_no_other(
    hospital: Hospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan(training={"held_back_share": 0.5})
    volumes = ids_of(hospital, "first")
    assert {plan.is_held_back(one) for one in volumes} == {True, False}
    paint(hospital, plan, "first", "second")
    for number in (1, 2, 3, 4):
        ask(hospital, plan, number)
    parts: dict[str, set[str]] = {}
    for one in (*volumes, *(f"{volume}-second" for volume in volumes)):
        found = {use.part for use in find_uses(hospital.store, one)}
        parts.setdefault(volume_of(one), set()).update(found)
    assert sorted("scored" in found for found in parts.values()) == sorted(
        plan.is_held_back(one) for one in volumes
    )
    assert all("scored" not in found or found == {"scored"} for found in parts.values())


def test_one_that_is_withdrawn_leaves_the_memory_and_both_tasks(
    hospital: Hospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan()
    paint(hospital, plan, "first", "second")
    rounds(hospital, plan, 1, 2)
    gone = ids_of(hospital, "first")[0]
    proofs = forget(hospital.store, f"{gone}-second")
    # Either proof tells what the volume did, for whichever task.
    assert [[use.scan_id for use in proof.uses] for proof in proofs] == [[gone], [gone]]
    note = ask(hospital, plan, 3).note
    assert (note.used, note.replayed) == (5, 2)


def test_a_policy_counts_a_volume_once(
    hospital: Hospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan(replay={"budget_scans": 12})
    paint(hospital, plan, "first", "second")
    tasks = [task.name for task in plan.tasks]
    assert count_annotated_scans(hospital.store, tasks) == 6
    rounds(hospital, plan, 1, 2, 3, 4)
    state = load_state(hospital.store, plan.federation, 4)
    assert len(state.memory.entries) == 9
    labelled = find_labelled(hospital.store, plan, 1)
    nothing_new = replace(labelled, training={name: [] for name in tasks})
    for least, remembered in ((6, 9), (7, 0)):
        policy = Policy(min_annotated_scans=least)
        material = choose_material(plan, 1, nothing_new, state, policy)
        assert len(material.remembered) == remembered


def test_a_name_that_came_for_one_task_stays_here_for_all(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    first, plan = ids_of(hospital, "first")[0], make_plan()
    with hospital.store.connect() as connection:
        save_identity(connection, first, Identity("P-0042", {"name": "Mustermann^Erika"}))
    save_local_names(hospital.store, f"{first}-second", [(2, 7, "lesion Mustermann")])
    assert local_names(hospital.store, plan, plan.tasks)["lesion"] == ("value 2", "value 7")


def test_each_is_painted_for_its_own_task_on_the_page(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    first = ids_of(hospital, "first")[0]
    second = f"{first}-second"
    mask = np.zeros((24, 24), np.uint8)
    mask[6:14, 5:15] = 2
    with running(hospital.store, make_plan()) as page, page.client() as client:
        assert client.get("/api/worklist").json()["total"] == 9
        of_second = client.get("/api/worklist", params={"task": "second"}).json()["rows"]
        assert second in [row["scan_id"] for row in of_second]
        described = client.get(f"/api/scans/{second}").json()
        assert (described["task"], described["painted"]) == ("second", [])
        address = f"/api/scans/{second}/drafts/4"
        values = {"version": 0, "seconds": 3.0}
        client.put(address, params=values, content=mask.tobytes())
        submitted = {"index": 4, "version": 1, "seconds": 9.0}
        assert client.post(f"/api/scans/{second}/submit", json=submitted).status_code == 200
        states = {one: client.get(f"/api/scans/{one}").json()["state"] for one in (first, second)}
        assert states == {first: "asked", second: "painted"}
        assert client.get(f"/api/scans/{first}-third").status_code == 404
    (painted,) = latest_annotations(hospital.store, second)
    assert painted.looked_for == (2,)
    assert latest_annotations(hospital.store, first) == []


def test_a_mask_is_imported_for_the_task_that_is_named(
    hospital: Hospital, make_plan: MakePlan, tmp_path: Path
) -> None:
    plan, first = make_plan(), ids_of(hospital, "first")[0]
    case, path = find_scan(hospital.store, first).case, tmp_path / "painted.nii.gz"
    painted = np.zeros((24, 24, 16), np.uint8)
    painted[6:9, 6:9, 5] = 2
    nib.save(nib.Nifti1Image(painted, np.eye(4)), path)
    named = rf"{case}' names 2 scans.*{first} \(task first\), {first}-second \(task second\)"
    with pytest.raises(StoreError, match=named):
        import_mask(hospital.store, plan, path, case, Wanted("anna"))
    (one,) = import_mask(hospital.store, plan, path, f"{first}-second", Wanted("anna"))
    assert (one.ref.scan_id, one.pixels) == (f"{first}-second", {2: 9})
