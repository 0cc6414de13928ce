"""A hospital in a federation that goes on from an earlier one, with a class more."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hospital_rounds import ask, assert_same_arrays, first_arrays, ids_of

from client.admission import NOT_ALLOWED
from client.app import make_client_app
from client.dry_run import try_next_round
from client.leak_probe import _material
from client.local_round import Hospital, answer
from client.store.forget import forget
from client.store.rounds import HospitalState, load_state
from client.traffic import traffic_of
from common.networks.unet import SEGMENTER
from common.plan import FederationPlan
from common.updates import RoundRequest
from server.plan_growth import begin_from_earlier
from server.round_state import RoundState
from server.rounds import run_federation
from server.run_folder import RunFolder
from simulations.local_grid import LocalGrid

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def before(make_plan: MakePlan) -> FederationPlan:
    """One class, one task of two rounds."""
    whole = make_plan()
    labels = [label.model_dump() for label in whole.labels[:1]]
    limits = {"join_deadline_s": 5}
    return make_plan(labels=labels, tasks=[whole.tasks[0].model_dump()], limits=limits)


@pytest.fixture
def after(make_plan: MakePlan, before: FederationPlan) -> FederationPlan:
    """Another class and another task of two rounds."""
    extends = {"federation": before.federation, "round": 2}
    return make_plan(extends=extends, limits={"join_deadline_s": 5})


def two_rounds(hospital: Hospital, plan: FederationPlan) -> None:
    arrays = first_arrays(plan)
    for number in (1, 2):
        arrays = ask(hospital, plan, number, arrays).arrays


def test_it_remembers_and_counts_on(
    make_hospital: MakeHospital, before: FederationPlan, after: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, before, "first")
    two_rounds(hospital, before)
    paint(hospital, after, "second")
    note = ask(hospital, after, 3, first_arrays(after)).note
    assert (note.outcome, note.task, note.used, note.replayed) == ("trained", "second", 3, 3)
    state = load_state(hospital.store, after.federation, 3)
    assert state.tasks_trained == {"first": 0, "second": 1}
    assert len(state.memory.offered) == 6
    earlier = load_state(hospital.store, before.federation, 2)
    assert (earlier.tasks_trained, len(earlier.memory.offered)) == ({"first": 0}, 3)


def test_a_hospital_that_missed_rounds_has_the_last_it_took_part_in(
    make_hospital: MakeHospital, before: FederationPlan, after: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, before, "first")
    ask(hospital, before, 1)
    # Neither here for the second round, nor for the first of what goes on.
    assert ask(hospital, after, 4, first_arrays(after)).note.replayed == 3


def test_one_that_was_not_there_before_begins_with_nothing(
    make_hospital: MakeHospital, before: FederationPlan, after: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, after, "second")
    note = ask(hospital, after, 3, first_arrays(after)).note
    assert (note.outcome, note.used, note.replayed) == ("trained", 3, 0)
    empty = load_state(hospital.store, after.federation, 2, after.extends)
    assert empty == HospitalState(after.federation, 2)


def test_of_the_earlier_federation_only_the_named_round_counts(
    make_hospital: MakeHospital, make_plan: MakePlan, before: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, before, "first")
    two_rounds(hospital, before)
    early = make_plan(extends={"federation": before.federation, "round": 1})
    state = load_state(hospital.store, early.federation, 1, early.extends)
    assert (state.federation, state.round) == (early.federation, 1)
    assert state.memory == load_state(hospital.store, before.federation, 1).memory


def test_a_scan_that_was_withdrawn_in_between_does_not_come_back(
    make_hospital: MakeHospital, before: FederationPlan, after: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, before, "first")
    two_rounds(hospital, before)
    gone, *others = ids_of(hospital, "first")
    forget(hospital.store, gone)
    assert ask(hospital, after, 3, first_arrays(after)).note.replayed == 2
    memory = load_state(hospital.store, after.federation, 3).memory
    assert {entry.scan_id for entry in memory.entries} == set(others)


def test_rounds_of_the_earlier_federation_are_not_asked_again(after: FederationPlan) -> None:
    with pytest.raises(ValueError, match="round 2: the plan has rounds 3 to 4"):
        RoundRequest(action="train", plan=after, round=2)
    assert RoundRequest(action="score", plan=after, round=2).round == 2


def test_no_more_models_leave_than_it_has_rounds_of_its_own(
    make_hospital: MakeHospital, before: FederationPlan, after: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, before, "first")
    (hospital.store.folder / "policy.toml").write_text("more_models = 0\n", encoding="utf-8")
    arrays = first_arrays(after)
    for number in (3, 4):
        assert ask(hospital, after, number, arrays).note.outcome == "trained"
    again = ask(hospital, after, 4, {name: array * 2 for name, array in arrays.items()})
    assert (again.note.outcome, again.note.reason) == ("abstained", NOT_ALLOWED)
    assert {one.network: one.rounds for one in traffic_of(after)}[SEGMENTER] == 2


def test_a_dry_run_and_a_probe_take_its_first_round(
    make_hospital: MakeHospital, before: FederationPlan, after: FederationPlan, paint: Paint
) -> None:
    hospital = make_hospital()
    paint(hospital, before, "first")
    two_rounds(hospital, before)
    paint(hospital, after, "second")
    assert try_next_round(hospital, after).round == 3
    number, material = _material(hospital.store, after, torch.device("cpu"))
    assert (number, len(material.current), len(material.remembered)) == (3, 3, 3)


# Both sides -------------------------------------------------------------------------------------


class _Killed(BaseException):
    """The end of the server's process."""


def federate(
    hospital: Hospital, plan: FederationPlan, folder: RunFolder, end_after: int | None = None
) -> RoundState:
    """The plan's federation of this one hospital, to its end or until it is killed."""

    def on_round(state: RoundState) -> None:
        if state.round == end_after:
            raise _Killed

    app = make_client_app(lambda _: lambda request: answer(hospital, request))
    folder.keep_plan(plan)
    begin_from_earlier(folder, plan)
    return run_federation(LocalGrid(app, {1: {}}), plan, folder.checkpoints, on_round)


def test_both_plans_one_after_the_other_killed_in_between_or_not(
    make_hospital: MakeHospital,
    before: FederationPlan,
    after: FederationPlan,
    paint: Paint,
    tmp_path: Path,
) -> None:
    states = []
    for name in ("straight", "killed"):
        hospital, runs = make_hospital(name), tmp_path / f"runs-{name}"
        for plan, task, number in ((before, "first", 1), (after, "second", 3)):
            paint(hospital, plan, task)
            folder = RunFolder(runs / task)
            if name == "killed":
                with pytest.raises(_Killed):
                    federate(hospital, plan, folder, end_after=number)
            state = federate(hospital, plan, folder)
        states.append(state)
    assert_same_arrays(states[0].arrays, states[1].arrays)
    notes = [note for record in states[0].history for note in record.notes]
    assert [(note.round, note.outcome, note.task, note.replayed) for note in notes] == [
        (1, "trained", "first", 0),
        (2, "trained", "first", 0),
        (3, "trained", "second", 3),
        (4, "trained", "second", 2),  # four fit into the memory, and two of them are its own
    ]
    assert states[0].arrays["segmenter/model.2.0.conv.bias"].shape == (3,)
