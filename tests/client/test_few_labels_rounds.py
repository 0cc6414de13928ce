"""Rounds with contrast, pseudo-labels and synthesis: what travels, and what scans were used for."""

from collections.abc import Callable

import numpy as np
import pytest
from hospital_rounds import ask, assert_same_arrays, ids_of

from client import round_training
from client.local_round import Hospital
from client.round_material import find_labelled
from client.store.uses import find_uses
from common.plan import FederationPlan
from common.updates import Arrays
from server.rounds import first_state

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
CONTRAST = {"prototypes": {"weight": 0.1, "embedding_length": 4, "background": 2}}
PSEUDO_LABELS = {"pseudo_labels": {"weight": 1.0, "unannotated": 1}}
SYNTHESIS = {"synthesis": {"share": 0.5, "negative_share": 0.5}}


def sent(plan: FederationPlan, role: str, arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name.startswith(f"{role}/")}


def differ(one: Arrays, other: Arrays) -> bool:
    return any(not np.array_equal(one[name], other[name]) for name in one)


def test_the_embedding_travels_with_the_segmenter(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan, hospital = make_plan(few_labels=CONTRAST), make_hospital()
    paint(hospital, plan, "first")
    first = first_state(plan).arrays
    back = ask(hospital, plan, 1, first).arrays
    assert back.keys() == first.keys()
    assert differ(sent(plan, "embedding", first), sent(plan, "embedding", back))
    lengths = np.linalg.norm(back["embedding/prototypes"], axis=1)
    # Two of the background and the organ begin; the lesion belongs to a later task.
    np.testing.assert_allclose(lengths, [1, 1, 1, 0], atol=1e-6)


def test_a_class_keeps_its_place_while_another_is_learnt(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan(few_labels=CONTRAST, replay={"budget_scans": 0})
    hospital = make_hospital()
    paint(hospital, plan, "first", "second")
    arrays = first_state(plan).arrays
    for number in (1, 2):
        arrays = ask(hospital, plan, number, arrays).arrays
    after = ask(hospital, plan, 3, arrays).arrays["embedding/prototypes"]
    np.testing.assert_array_equal(after[2], arrays["embedding/prototypes"][2])
    assert np.linalg.norm(after[3]) == pytest.approx(1)


@pytest.mark.parametrize(
    "few_labels", [CONTRAST, PSEUDO_LABELS, SYNTHESIS, {**CONTRAST, **PSEUDO_LABELS, **SYNTHESIS}]
)
def test_the_segmenter_learns_something_else_and_the_same_each_time(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, few_labels: dict[str, object]
) -> None:
    plain, changed = make_plan(), make_plan(few_labels=few_labels)
    results = []
    for name, plan in (("plain", plain), ("one", changed), ("other", changed)):
        hospital, arrays = make_hospital(name), first_state(plan).arrays
        paint(hospital, plan, "first")
        for number in (1, 2):
            arrays = ask(hospital, plan, number, arrays).arrays
        results.append(sent(plan, "segmenter", arrays))
    assert_same_arrays(results[1], results[2])
    assert differ(results[0], results[1])


@pytest.mark.parametrize(
    "parts",
    [
        {"few_labels": {**CONTRAST, **PSEUDO_LABELS, **SYNTHESIS}},
        {"distillation": {"pairs": 1.0, "hint": 1.0, "registration_steps": 2}},
    ],
)
def test_a_round_is_the_same_with_batches_drawn_ahead(
    make_hospital: MakeHospital,
    make_plan: MakePlan,
    paint: Paint,
    monkeypatch: pytest.MonkeyPatch,
    parts: dict[str, object],
) -> None:
    plan = make_plan(**parts)
    ends = []
    for are_ahead in (False, True):
        monkeypatch.setattr(
            round_training, "leaves_cores_idle", lambda _, are_ahead=are_ahead: are_ahead
        )
        hospital, arrays = make_hospital(), first_state(plan).arrays
        paint(hospital, plan, "first", "second")
        for number in (1, 2, 3):
            arrays = ask(hospital, plan, number, arrays).arrays
        ends.append(arrays)
    assert_same_arrays(*ends)


def test_scans_that_served_by_their_image_alone_are_on_record(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    annotation = {"annotation": {"scans": 2}}
    plan = make_plan(few_labels=PSEUDO_LABELS, **annotation)
    hospital = make_hospital()
    paint(hospital, plan, "first")
    for number in (1, 2):
        note = ask(hospital, plan, number).note
        assert (note.used, note.skipped, note.num_examples) == (2, 1, 2)
    uses = [
        (use.part, use.first_round, use.last_round)
        for one in _ids(hospital)
        for use in find_uses(hospital.store, one)
    ]
    # In the first round of a stage nobody teaches yet.
    assert sorted(uses) == [("taught", 2, 2), ("trained", 1, 2), ("trained", 1, 2)]


def test_without_pseudo_labels_an_unannotated_scan_is_not_used(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan, hospital = make_plan(annotation={"scans": 2}), make_hospital()
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    uses = [len(find_uses(hospital.store, one)) for one in _ids(hospital)]
    assert sorted(uses) == [0, 1, 1]


def test_a_scan_that_is_held_back_teaches_nothing(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital = make_hospital()
    plans = [make_plan(training={"held_back_share": share / 20}) for share in range(11)]
    plan = next(one for one in plans if any(map(one.is_held_back, _ids(hospital))))
    found = find_labelled(hospital.store, plan, 0).unannotated["first"]
    assert found == [one for one in _ids(hospital) if not plan.is_held_back(one)]


def _ids(hospital: Hospital) -> list[str]:
    return ids_of(hospital, "first")
