"""The replay policies in real rounds: what is measured, what stays, what a resumed run has."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hospital_rounds import ask, first_arrays, ids_of

from client import scan_hardness
from client.annotation.annotator import Annotator
from client.label_engine import LabelMaker
from client.learning.evaluate import score_painted_slices
from client.local_round import Hospital
from client.round_material import Material
from client.scan_hardness import measure_hardness
from client.store.annotations import latest_annotations, save_annotation
from client.store.arrays import load_array
from client.store.forget import forget
from client.store.label_maps import load_label_map, training_bytes
from client.store.reviews import save_review
from client.store.rounds import Memory, Remembered, load_state
from client.store.scans import find_scan, load_scan
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.scans import SliceRef
from common.updates import Arrays

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
Paint = Callable[..., None]
CPU = torch.device("cpu")
NAMES = frozenset({"first", "second"})
POLICIES = ["reservoir", "balanced", "hard"]


def memory_after(hospital: Hospital, plan: FederationPlan, number: int) -> Memory:
    return load_state(hospital.store, plan.federation, number).memory


def kept(memory: Memory) -> set[str]:
    return {entry.scan_id for entry in memory.entries}


def segmenter_of(plan: FederationPlan, arrays: Arrays) -> torch.nn.Module:
    """As it comes in with the third round, the first of the second stage."""
    segmenter = build_networks(plan, 2)[SEGMENTER]
    load_arrays(segmenter, arrays, SEGMENTER)
    return segmenter


def dice_of(
    hospital: Hospital, plan: FederationPlan, arrays: Arrays, scan_id: str, task: str
) -> float:
    """Of the segmenter in these weights on what is painted of the scan."""
    mean = score_painted_slices(
        segmenter_of(plan, arrays),
        latest_annotations(hospital.store, scan_id),
        lambda one: load_scan(hospital.store, one),
        plan,
        plan.task_named(task),
        device=CPU,
    ).mean_dice
    assert mean is not None
    return mean


def test_hard_keeps_what_the_incoming_segmenter_does_worst_on(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital = make_hospital()
    plan = make_plan(
        replay={"policy": "hard", "budget_scans": 2}, annotation={"slice_choice": "centre"}
    )
    paint(hospital, plan, "first")
    first = first_arrays(plan)
    ask(hospital, plan, 1, first)
    scans = ids_of(hospital, "first")
    dice = {one: dice_of(hospital, plan, first, one, "first") for one in scans}
    assert len(set(dice.values())) == 3
    assert kept(memory_after(hospital, plan, 1)) == set(sorted(scans, key=dice.get)[:2])


def test_old_and_new_scans_are_looked_at_by_the_same_segmenter(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital = make_hospital()
    plan = make_plan(
        replay={"policy": "hard", "budget_scans": 4}, annotation={"slice_choice": "centre"}
    )
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    paint(hospital, plan, "second")
    later = {name: array * 0.5 for name, array in first_arrays(plan).items()}
    ask(hospital, plan, 3, later)
    scans = ids_of(hospital, "first")
    dice = {one: dice_of(hospital, plan, later, one, "first") for one in scans}
    memory = memory_after(hospital, plan, 3)
    assert [entry.task for entry in memory.entries].count("second") == 2
    assert kept(memory) & set(scans) == set(sorted(scans, key=dice.get)[:2])


def test_nobody_is_looked_at_where_nobody_competes(
    make_hospital: MakeHospital,
    make_plan: MakePlan,
    paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hospital, plan = make_hospital(), make_plan(replay={"policy": "hard"})
    paint(hospital, plan, "first")
    looked: list[str] = []

    def count(*arguments: object, **settings: object) -> object:
        looked.extend(one.ref.scan_id for one in arguments[1])  # type: ignore[attr-defined]
        return score_painted_slices(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(scan_hardness, "score_painted_slices", count)
    ask(hospital, plan, 1)
    assert sorted(looked) == ids_of(hospital, "first")
    ask(hospital, plan, 2)
    assert len(looked) == 3
    others = make_plan(name="others", replay={"policy": "balanced"})
    ask(hospital, others, 1)
    assert len(looked) == 3


def test_what_is_missed_is_hard_and_an_empty_slice_where_nothing_is_found_is_easy(
    make_hospital: MakeHospital, make_plan: MakePlan, oracle: MakeOracle
) -> None:
    hospital, plan = make_hospital(), make_plan(replay={"policy": "hard"})
    store, (empty, missed, _) = hospital.store, ids_of(hospital, "first")
    for scan_id, index in ((empty, 0), (missed, 8)):
        ref = SliceRef(scan_id, 2, index)
        save_annotation(store, oracle(plan).paint(store, ref, (1,)))
    segmenter = segmenter_of(plan, first_arrays(plan))
    with torch.no_grad():
        list(segmenter.parameters())[-1].copy_(torch.tensor([99.0, 0.0, 0.0]))  # background alone
    maker = LabelMaker(store, plan, plan.propagation, None, CPU, NAMES)
    material = Material(plan.tasks[0], [empty, missed], [])
    assert measure_hardness(maker, segmenter, Memory(), material) == {empty: 0.0, missed: 1.0}


def test_megabytes_are_those_of_the_image_and_its_labels(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    scan_id, store = ids_of(hospital, "first")[0], hospital.store
    image = load_array(store, find_scan(store, scan_id).image_key)
    before = training_bytes(store, scan_id, plan.federation)
    assert 0 <= before - image.nbytes < 256  # the file says in a few bytes what it holds
    ask(hospital, plan, 1)
    labels = load_label_map(store, scan_id, plan.federation)
    arrays = (image, labels.soft, labels.weight, labels.expert)
    now = training_bytes(store, scan_id, plan.federation)
    assert 0 <= now - sum(array.nbytes for array in arrays) < 4 * 256


@pytest.mark.parametrize("policy", POLICIES)
def test_the_memory_keeps_to_megabytes(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, policy: str
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first", "second")
    ask(hospital, plan, 1)
    size = training_bytes(hospital.store, ids_of(hospital, "first")[0], plan.federation)
    # All scans are of one size; there is room for two and a half.
    tight = make_plan(name="tight", replay={"policy": policy, "budget_mb": 2.5 * size / 1e6})
    for number in (1, 2, 3):
        ask(hospital, tight, number)
        memory = memory_after(hospital, tight, number)
        assert len(memory.entries) == 2
        sizes = [training_bytes(hospital.store, one, tight.federation) for one in kept(memory)]
        assert sum(sizes) <= 2.5 * size
    assert len(memory.offered) == 6


@pytest.mark.parametrize("policy", POLICIES)
def test_asked_again_or_resumed_the_memory_is_the_same(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, policy: str
) -> None:
    plan = make_plan(replay={"policy": policy, "budget_scans": 3})
    memories = []
    for name in ("straight", "again"):
        hospital = make_hospital(name)
        paint(hospital, plan, "first", "second")
        arrays = first_arrays(plan)
        for number in (1, 2, 3, 4):
            if name == "again":
                # The server lost the round and asks for it with other weights first.
                other = {key: array * 2 for key, array in arrays.items()}
                ask(hospital, plan, number, other)
            arrays = ask(hospital, plan, number, arrays).arrays
        memories.append(memory_after(hospital, plan, 4))
    assert memories[0] == memories[1]
    assert len(memories[0].entries) == 3


@pytest.mark.parametrize("policy", POLICIES)
def test_a_withdrawn_scan_is_gone_and_a_flagged_one_is_not_replayed(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, policy: str
) -> None:
    hospital, plan = make_hospital(), make_plan(replay={"policy": policy})
    paint(hospital, plan, "first", "second")
    ask(hospital, plan, 1)
    withdrawn, flagged, left = ids_of(hospital, "first")
    forget(hospital.store, withdrawn)
    save_review(hospital.store, flagged, "flagged", "anna", "the wrong organ")
    note = ask(hospital, plan, 3).note
    assert (note.used, note.replayed) == (3, 1)
    memory = memory_after(hospital, plan, 3)
    assert withdrawn not in kept(memory) | memory.offered
    assert left in kept(memory)


def test_without_a_task_a_smaller_budget_still_holds(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, tmp_path: Path
) -> None:
    hospital, plan = make_hospital(), make_plan(replay={"policy": "hard", "budget_scans": 3})
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    tighter = make_plan(
        name="tighter",
        replay={"policy": "hard", "budget_scans": 1},
        extends={"federation": plan.federation, "round": 2},
    )
    note = ask(hospital, tighter, 3).note
    assert note.outcome == "replay_only"
    (entry,) = memory_after(hospital, tighter, 3).entries
    assert isinstance(entry, Remembered)
    assert entry.task == "first"
