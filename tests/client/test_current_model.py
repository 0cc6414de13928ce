"""The model that a hospital has: from its newest reply that holds one."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hospital_rounds import ask, assert_same_arrays
from small_correspondence import SMALL_CORRESPONDENCE

from client.current_model import load_current_model
from client.local_round import Hospital
from client.store.rounds import HospitalState, commit_round, load_state
from common.networks.correspondence import build_correspondence
from common.networks.unet import SEGMENTER, build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.updates import CORRESPONDENCE, LocalUpdate, Note, encode_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """With the slices of both tasks painted."""
    hospital = make_hospital()
    paint(hospital, make_plan(), "first", "second")
    return hospital


def segmenter_in(update: LocalUpdate) -> dict[str, object]:
    return {name: one for name, one in update.arrays.items() if name.startswith("segmenter/")}


def test_before_the_first_round_there_is_none(hospital: Hospital, make_plan: MakePlan) -> None:
    assert load_current_model(hospital.store, make_plan()) is None


def test_it_is_the_segmenter_of_the_newest_round(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan()
    for number in (1, 2, 3):
        sent = ask(hospital, plan, number)
        found = load_current_model(hospital.store, plan)
        assert found is not None
        assert found.round == number
        assert_same_arrays(found.arrays, segmenter_in(sent))  # type: ignore[arg-type]
        assert found.memory == load_state(hospital.store, plan.federation, number).memory
        assert len(found.memory.entries) >= 3


def test_a_round_without_a_model_is_passed_over(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan()
    ask(hospital, plan, 1)
    abstained = encode_update(LocalUpdate({}, Note(hospital="north", outcome="abstained", round=2)))
    commit_round(hospital.store, HospitalState(plan.federation, 2), "0" * 64, abstained)
    found = load_current_model(hospital.store, plan)
    assert found is not None
    assert found.round == 1


def test_a_model_of_another_plan_is_none_of_this_one(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    ask(hospital, make_plan(), 1)
    assert load_current_model(hospital.store, make_plan(seed=1)) is None


def test_a_correspondence_network_is_no_segmenter(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan(
        propagation={"candidates": ["patches", "correspondence"]},
        correspondence={**SMALL_CORRESPONDENCE, "rounds": 1},
    )
    network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
    arrays = networks_to_arrays({**build_networks(plan), CORRESPONDENCE: network})
    assert ask(hospital, plan, 1, arrays).note.outcome == "self_learned"
    assert load_current_model(hospital.store, plan) is None
    ask(hospital, plan, 2, arrays)
    found = load_current_model(hospital.store, plan)
    assert found is not None
    assert {name.split("/")[0] for name in found.arrays} == {SEGMENTER}


def test_a_reply_that_is_gone_is_passed_over(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan()
    for number in (1, 2):
        ask(hospital, plan, number)
    folder: Path = hospital.store.folder / "rounds" / plan.federation
    next(folder.glob("00002-*")).unlink()
    found = load_current_model(hospital.store, plan)
    assert found is not None
    assert found.round == 1
