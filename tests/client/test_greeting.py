"""What a hospital greets with: its name, and what its own files call the plan's labels."""

import json
from collections.abc import Callable

import pytest
from hospital_rounds import ask, ids_of
from pydantic import ValidationError

from client.local_round import Hospital
from client.store.audit import SENDING, newest_row
from client.store.local_names import save_local_names
from common.plan import FederationPlan
from common.updates import MOST_LOCAL_NAMES, Note

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]


def greet(hospital: Hospital, plan: FederationPlan) -> Note:
    update = ask(hospital, plan, 0, {}, action="hello")
    assert update.arrays == {}
    return update.note


def test_names_come_with_the_greeting_and_are_in_the_audit_log(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital = make_hospital()
    save_local_names(hospital.store, ids_of(hospital, "second")[0], [(2, 5, "Mass")])
    note = greet(hospital, make_plan())
    assert note.outcome == "greeted"
    # The full labels of this hospital's files have no dictionary.
    assert note.label_names == {"organ": ("value 1",), "lesion": ("Mass", "value 2")}
    row = newest_row(hospital.store, SENDING)
    assert row is not None
    assert json.loads(row.details)["note"]["label_names"]["lesion"] == ["Mass", "value 2"]


def test_rounds_bring_no_names(make_hospital: MakeHospital, make_plan: MakePlan) -> None:
    assert ask(make_hospital(), make_plan(), 1).note.label_names == {}


def test_the_policy_may_keep_them_back(make_hospital: MakeHospital, make_plan: MakePlan) -> None:
    hospital = make_hospital()
    (hospital.store.folder / "policy.toml").write_text('metrics = ["loss"]\n', encoding="utf-8")
    note = greet(hospital, make_plan())
    assert note.label_names == {}
    assert "label_names" in note.withheld


def test_of_tasks_that_the_policy_leaves_out_nothing_is_said(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital = make_hospital()
    (hospital.store.folder / "policy.toml").write_text('tasks = ["second"]\n', encoding="utf-8")
    assert greet(hospital, make_plan()).label_names == {"lesion": ("value 2",)}


@pytest.mark.parametrize(
    "names",
    [
        {"organ": ("a\nb",)},
        {"organ": ("",)},
        {"organ": ("x" * 65,)},
        {"organ": tuple(f"n{number}" for number in range(MOST_LOCAL_NAMES + 1))},
        {"": ("x",)},
        {f"label {number}": ("x",) for number in range(255)},
    ],
)
def test_a_note_takes_few_short_visible_names(names: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(ValidationError, match="label_names"):
        Note(hospital="north", outcome="greeted", label_names=names)
