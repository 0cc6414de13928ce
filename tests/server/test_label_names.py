"""Who calls which label what, and when somebody has to look."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hospitals import FakeHospitals

from common.plan import FederationPlan
from common.updates import Note, decode_update, encode_update
from server.federation_status import federation_status, federation_text
from server.label_names import (
    HeardNames,
    NameUse,
    differing_names,
    hear_names,
    names_table,
    read_names,
)
from server.rounds import run_federation
from server.run_folder import RunFolder

MakePlan = Callable[..., FederationPlan]
Names = dict[str, tuple[str, ...]]


def greeting(hospital: str, **names: tuple[str, ...]) -> Note:
    return Note(hospital=hospital, outcome="greeted", label_names=names)


def heard(**hospitals: Names) -> HeardNames:
    return HeardNames(hospitals=hospitals)


def test_the_same_names_in_another_spelling_are_no_difference() -> None:
    same = heard(
        north={"lobe": ("Left Lobe",)},
        south={"lobe": ("left_lobe",)},
        west={"lobe": ("left-lobe",)},
    )
    assert differing_names(same) == ()
    assert names_table(()) == []


def test_a_hospital_that_paints_on_the_page_has_no_other_name() -> None:
    assert differing_names(heard(north={"lobe": ("Lobe",)}, south={}, west={"lobe": ()})) == ()


def test_other_names_for_one_label() -> None:
    uses = differing_names(
        heard(
            north={"lesion": ("Tumour",), "organ": ("Liver",)},
            south={"lesion": ("value 3",), "organ": ("liver",)},
            west={"lesion": ("TUMOUR",)},
        )
    )
    assert uses == (
        NameUse(label="lesion", name="Tumour", hospitals=("north", "west")),
        NameUse(label="lesion", name="value 3", hospitals=("south",)),
    )


def test_one_name_for_two_labels() -> None:
    # Each label has one name, and yet north and south do not mean the same.
    uses = differing_names(heard(north={"lesion": ("Mass",)}, south={"cyst": ("mass",)}))
    assert [(use.label, use.name, use.hospitals) for use in uses] == [
        ("cyst", "Mass", ("south",)),
        ("lesion", "Mass", ("north",)),
    ]


def test_one_more_name_at_one_hospital_is_a_difference() -> None:
    uses = differing_names(
        heard(north={"lesion": ("Cyst", "Tumour")}, south={"lesion": ("Tumour",)})
    )
    assert [(use.name, use.hospitals) for use in uses] == [
        ("Cyst", ("north",)),
        ("Tumour", ("north", "south")),
    ]


def test_the_table() -> None:
    uses = differing_names(heard(north={"lesion": ("a\u202eb",)}, south={"lesion": ("value 3",)}))
    assert [line.split() for line in names_table(uses)[1:]] == [
        ["label", "of", "the", "plan", "called", "at"],
        ["lesion", r"a\u202eb", "north"],
        ["lesion", "value", "3", "south"],
    ]


def test_each_new_difference_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    hear_names(folder, greeting("north", lesion=("Tumour",)))
    assert caplog.text == ""
    hear_names(folder, greeting("south", lesion=("value 3",)))
    assert caplog.text.count("hospitals call labels by different names") == 1
    assert "value 3" in caplog.text
    for hospital, name in (("south", "value 3"), ("north", "Tumour")):
        hear_names(folder, greeting(hospital, lesion=(name,)))
    assert len(caplog.records) == 1
    with caplog.at_level(logging.WARNING):
        hear_names(folder, greeting("south", lesion=("tumour",)))
    assert "by the same names" in caplog.records[-1].message
    assert read_names(folder).hospitals["south"] == {"lesion": ("tumour",)}


def test_a_damaged_file_says_nothing_and_is_written_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = RunFolder(tmp_path)
    folder.label_names_file.write_text("{", encoding="utf-8")
    assert read_names(folder) == HeardNames()
    assert "is damaged" in caplog.text
    hear_names(folder, greeting("north", lesion=("Tumour",)))
    assert read_names(folder).hospitals.keys() == {"north"}


class NamedHospitals(FakeHospitals):
    """Hospitals that greet with a name of their own for the only label."""

    def _answer(self, name: str, data: bytes) -> bytes:
        update = decode_update(super()._answer(name, data))
        if update.note.outcome != "greeted":
            return encode_update(update)
        note = update.note.model_copy(update={"label_names": {"organ": (f"liver of {name}",)}})
        return encode_update(type(update)({}, note))


def test_status_shows_it_before_the_first_round(make_plan: MakePlan, tmp_path: Path) -> None:
    plan, folder = make_plan(limits={"hospitals": 2}), RunFolder(tmp_path)
    folder.keep_plan(plan)
    seen: list[list[str]] = []

    def on_progress(_: object) -> None:
        seen.append(names_table(differing_names(read_names(folder))))

    run_federation(
        NamedHospitals({1: "north", 2: "south"}).grid(),
        plan,
        folder.checkpoints,
        lambda _: None,
        on_progress,
        lambda note: hear_names(folder, note),
    )
    # Told before anything was asked but the greeting: nobody had greeted; then both had.
    assert seen[0] == []
    assert len(seen[1]) == 4
    status = federation_status(folder)
    assert [use.name for use in status.label_names] == ["liver of north", "liver of south"]
    assert "liver of south" in federation_text(status)
