"""What a policy file means, and that a broken one means no."""

from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from client.desk_text import print_policy
from client.policy import ALLOWS_ALL, POLICY_FILE, Policy, read_policy
from common.errors import SettingsError
from common.updates import Note, TaskScore, check_note

ONE = np.ones(1)
FULL_NOTE = Note(
    hospital="north",
    outcome="trained",
    round=3,
    label_names={"organ": ("Liver",)},
    task="first",
    num_examples=5,
    scans_per_task={"first": 9},
    voxels_per_task={"first": 999},
    used=3,
    replayed=2,
    skipped=1,
    quarantined=4,
    annotated_slices=7,
    scores=(TaskScore(task="first", dice={"organ": 0.5}, cases=2, missed=0),),
    loss=0.7,
    student_loss=0.8,
    seconds={"train": 1.5},
)


def _at(text: str, *, day: int = 15) -> datetime:
    hours, minutes = map(int, text.split(":"))
    return datetime(2026, 3, day, hours, minutes)


def _write(folder: Path, text: str) -> None:
    (folder / POLICY_FILE).write_text(text, encoding="utf-8")


# Reading ----------------------------------------------------------------------------------------


def test_without_a_file_everything_is_allowed(tmp_path: Path) -> None:
    assert read_policy(tmp_path) == ALLOWS_ALL == Policy()
    assert ALLOWS_ALL.let_through(FULL_NOTE) == FULL_NOTE
    assert ALLOWS_ALL.seconds_left(_at("12:00")) is None


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hours = [", "is not TOML"),
        ("hour = []", "unknown key; allowed here: hours, memory_gb, metrics"),
        ('hours = ["8:00-9:00"]', "hours.0"),
        ('hours = ["24:00-09:00"]', "hours.0"),
        ('hours = ["09:00-25:00"]', "hours.0"),
        ('hours = ["09:00-09:00"]', "begin and end at the same time"),
        ('metrics = ["hospital"]', "metrics.0"),
        ('networks = ["segmenter", "scans"]', "networks.1"),
        ("memory_gb = 0", "memory_gb"),
        ("seconds_per_round = -1", "seconds_per_round"),
        ("min_annotated_scans = 1.5", "min_annotated_scans"),
        ('tasks = ["../x"]', "tasks.0"),
    ],
)
def test_a_broken_file_is_refused_with_what_is_wrong(
    tmp_path: Path, text: str, complaint: str
) -> None:
    _write(tmp_path, text)
    with pytest.raises(SettingsError, match=complaint):
        read_policy(tmp_path)


def test_a_file_that_cannot_be_read_is_no_missing_one(tmp_path: Path) -> None:
    (tmp_path / POLICY_FILE).symlink_to(tmp_path / "gone.toml")
    with pytest.raises(SettingsError, match="expected a settings file"):
        read_policy(tmp_path)
    (tmp_path / POLICY_FILE).unlink()
    (tmp_path / POLICY_FILE).mkdir()
    with pytest.raises(SettingsError, match="cannot be read"):
        read_policy(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        'tasks = ["first"]\nmin_annotated_scans = 3\nmetrics = []\nnetworks = ["student"]\n'
        'memory_gb = 8.5\nseconds_per_round = 600\nhours = ["19:30-06:00", "12:00-13:00"]\n',
    ],
)
def test_the_printed_policy_is_a_policy_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    _write(tmp_path, text)
    wanted = read_policy(tmp_path)
    print_policy(wanted, tmp_path)
    _write(tmp_path, capsys.readouterr().out)
    assert read_policy(tmp_path) == wanted


# Hours ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "now", "minutes_left"),
    [
        (["09:00-17:30"], "08:59", 0),
        (["09:00-17:30"], "09:00", 510),
        (["09:00-17:30"], "17:29", 1),
        (["09:00-17:30"], "17:30", 0),
        (["19:30-06:00"], "19:29", 0),
        (["19:30-06:00"], "23:00", 420),
        (["19:30-06:00"], "05:59", 1),
        (["19:30-06:00"], "06:00", 0),
        (["20:00-24:00"], "23:30", 30),
        (["20:00-24:00"], "00:00", 0),
        (["20:00-24:00", "00:00-06:00"], "23:00", 420),
        (["09:00-11:00", "10:00-12:00"], "09:30", 150),
        (["09:00-10:00", "14:00-15:00"], "14:30", 30),
    ],
)
def test_time_left_in_the_hours(hours: list[str], now: str, minutes_left: int) -> None:
    policy = Policy.model_validate({"hours": hours})
    for day in (1, 15, 31):
        assert policy.seconds_left(_at(now, day=day)) == 60 * minutes_left


def test_hours_that_never_end_are_no_limit() -> None:
    assert Policy(hours=("00:00-24:00",)).seconds_left(_at("13:00")) is None
    assert Policy(hours=("06:00-18:00", "18:00-06:00")).seconds_left(_at("13:00")) is None


# What may leave ---------------------------------------------------------------------------------


def test_a_note_without_what_may_not_leave_is_still_a_note() -> None:
    policy = Policy(metrics=("scores", "loss"))
    note = policy.let_through(FULL_NOTE)
    assert (note.scores, note.loss) == (FULL_NOTE.scores, 0.7)
    assert (note.hospital, note.outcome, note.round, note.num_examples) == (
        "north",
        "trained",
        3,
        5,
    )
    assert (note.task, note.student_loss, note.seconds, note.scans_per_task) == (None, None, {}, {})
    assert (note.used, note.replayed, note.skipped, note.quarantined) == (0, 0, 0, 0)
    assert note.label_names == {}
    assert len(note.withheld) == 11
    assert "scores" not in note.withheld
    assert check_note(note.model_dump_json()) == note
    # What an earlier policy has taken out of a stored reply is not there again under another one.
    assert ALLOWS_ALL.let_through(note) == note


def test_every_field_is_needed_or_may_be_kept_back() -> None:
    """A new field of the note must be thought about: it is in one of the two lists."""
    needed = {"hospital", "outcome", "reason", "protocol", "round", "num_examples", "withheld"}
    assert set(Note.model_fields) == needed | set(ALLOWS_ALL.metrics)


def test_networks_are_known_by_their_prefix() -> None:
    policy = Policy(networks=("segmenter",))
    assert policy.allows_networks({})
    assert policy.allows_networks({"segmenter/a": ONE, "segmenter/b": ONE})
    assert not policy.allows_networks({"segmenter/a": ONE, "student/a": ONE})
    assert not ALLOWS_ALL.allows_networks({"scan/a": ONE})


def test_the_example_in_the_docs_is_a_policy_with_every_key(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "hospital.md").read_text(encoding="utf-8")
    (example,) = (block for block in page.split("```") if "\nmin_annotated_scans = " in block)
    _write(tmp_path, example)
    assert read_policy(tmp_path).model_fields_set == set(Policy.model_fields)
    for name in ALLOWS_ALL.metrics:
        assert f"`{name}`" in page
