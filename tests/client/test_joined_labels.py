"""Rounds in which the segmenter joins the labels that are trained on."""

from collections.abc import Callable

import numpy as np
from hospital_rounds import (
    ask,
    assert_same_arrays,
    first_arrays,
    ids_of,
    of_every_class,
    without_times,
)

from client.local_round import Hospital, train_round
from client.store.label_maps import MadeFrom, find_label_map
from common.plan import FederationPlan
from common.updates import RoundRequest

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


def joined(hospital: Hospital, plan: FederationPlan, task: str) -> dict[str, MadeFrom | None]:
    """What the label maps of a task were made from, by scan."""
    names = ids_of(hospital, task)
    return {name: find_label_map(hospital.store, name, plan.federation) for name in names}


def test_the_segmenter_joins_the_labels_of_all_that_is_trained_on(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan(propagation={"segmenter_from": 0.6})
    paint(hospital, plan, "first", "second")
    ask(hospital, plan, 1, held_back_dice=0.5)
    assert {made.round for made in joined(hospital, plan, "first").values() if made} == {0}
    # Stage two trains on the second task and on the memory of the first.
    ask(hospital, plan, 3, held_back_dice=0.65)
    for task in ("first", "second"):
        for made in joined(hospital, plan, task).values():
            assert made is not None
            assert (made.federation, made.round, made.score) == (plan.federation, 3, 0.65)


def test_what_is_trained_on_are_the_joined_labels(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan(propagation={"segmenter_from": 0.6})
    alone, with_segmenter = make_hospital("alone"), make_hospital("with")
    updates = []
    for hospital, dice in ((alone, 0.59), (with_segmenter, 0.6)):
        paint(hospital, plan, "first")
        updates.append(ask(hospital, plan, 1, held_back_dice=dice))
    name = next(name for name in updates[0].arrays if name.startswith("segmenter/"))
    assert (updates[0].arrays[name] != updates[1].arrays[name]).any()


def test_a_hospital_killed_after_the_segmenter_joined_answers_as_if_nothing_had_happened(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan(propagation={"segmenter_from": 0.5, "refresh_gain": 0.02})
    steady, killed = make_hospital("steady"), make_hospital("killed")
    arrays = first_arrays(plan)
    for hospital in (steady, killed):
        paint(hospital, plan, "first")
    for number, dice in ((1, None), (2, 0.6)):
        request = RoundRequest(action="train", plan=plan, round=number)
        # The lost try had another model, which did better: nothing of its labels may be left.
        better = request.model_copy(update={"held_back_dice": of_every_class(plan, 0.9)})
        train_round(killed, better, {n: array * np.float32(0.5) for n, array in arrays.items()})
        wanted = ask(steady, plan, number, arrays, held_back_dice=dice)
        found = ask(killed, plan, number, arrays, held_back_dice=dice)
        assert_same_arrays(wanted.arrays, found.arrays)
        assert without_times(wanted.note) == without_times(found.note)
        assert joined(steady, plan, "first") == joined(killed, plan, "first")
        arrays = wanted.arrays
