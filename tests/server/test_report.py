"""The report of a small run: right numbers, a page that calls nobody, names that are not markup."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from scored_rounds import scored_state

from common.plan import FederationPlan
from server.held_back import held_back_scores
from server.promotion import release_gate
from server.report import (
    MOST_LINES,
    Annotation,
    Communication,
    Continual,
    LocalOnly,
    ModelScores,
    Picture,
    PrivacySpent,
    PropagationScores,
    Report,
    SiteRow,
    communication,
    federation_report,
    installed_versions,
    losses_of,
    privacy_spent,
    seconds_spent,
    site_rows,
    write_report,
)
from server.round_state import Dropped, RoundState
from server.run_folder import RunFolder

MakeState = Callable[..., RoundState]
MakePlan = Callable[..., FederationPlan]
SCORES = ModelScores(
    dice={"organ": 0.75}, mean_dice=0.75, hd95_mm=2.5, missed=1, cases=4, parameters=1234
)


def _report(state: RoundState, **changes: Any) -> Report:
    report = Report(
        scenario="small",
        seed=0,
        engine="in-process",
        versions={"python": "3.11"},
        sites=site_rows(state),
        segmenter=SCORES,
        student=_in_voxels(SCORES),
        local_only=(
            LocalOnly(site="north", mean_dice=0.5),
            LocalOnly(site="south", mean_dice=None),
        ),
        continual=Continual(
            tasks=("task1", "task2"),
            dice_matrix=((0.5, None), (0.25, 0.75)),
            acc=0.5,
            bwt=-0.25,
            forgetting=0.25,
            fwt=-0.125,
            learning_accuracy=0.625,
            untrained=(None, 0.125),
        ),
        propagation=PropagationScores(
            mean_dice=0.9,
            mean_dice_without_annotated=0.8,
            overrun_slices=1.5,
            underrun_slices=0.5,
            scans=4,
            scans_painted_empty=1,
        ),
        annotation=Annotation(slices=8, fraction_of_slices=0.1, rounds=1, minutes=3.0),
        communication=communication(state),
        time_s=seconds_spent(state, 1.0, in_turn=True),
    )
    return report.model_copy(update=changes)


def _of_hospitals(plan: FederationPlan, state: RoundState) -> dict[str, Any]:
    """The parts of a report that hospitals' own scores make."""
    return {
        "held_back": held_back_scores(plan, state),
        "ledger": losses_of(plan, state),
        "release": release_gate(plan, state),
    }


def _in_voxels(scores: ModelScores) -> ModelScores:
    return scores.model_copy(update={"hd95_mm": None, "hd95_voxels": 3.25})


def _bare(state: RoundState) -> Report:
    empty = {"segmenter": None, "student": None, "continual": None, "propagation": None}
    effort = Annotation(slices=0, fraction_of_slices=None, rounds=0, minutes=0.0)
    return _report(state, **empty, local_only=(), annotation=effort)


class _Page(HTMLParser):
    """Collects tags, text, and every attribute that could load something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.text += " "
        loading = ("src", "href", "srcset", "data", "action", "poster", "background")
        self.loaded += [value or "" for name, value in attributes if name in loading]

    def handle_data(self, data: str) -> None:
        self.text += data


def _write(
    tmp_path: Path, report: Report, plan: FederationPlan, state: RoundState, *pictures: Picture
) -> tuple[RunFolder, str]:
    folder = RunFolder(tmp_path)
    tmp_path.mkdir(exist_ok=True)
    write_report(folder, report, plan, state, pictures)
    return folder, folder.report_html.read_text(encoding="utf-8")


def test_report_json_comes_back_equal(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(3, closed=True)
    report = _report(state, **_of_hospitals(plan, state))
    folder, _ = _write(tmp_path, report, plan, state)
    text = folder.report_json.read_text(encoding="utf-8")
    assert Report.model_validate_json(text) == report
    values = json.loads(text)
    # Keys that other tools read.
    assert {"scenario", "seed", "engine", "versions", "sites", "segmenter", "student"} <= set(
        values
    )
    assert {"local_only", "continual", "propagation", "annotation"} <= set(values)
    assert {"dice", "mean_dice", "hd95_mm", "missed", "cases", "parameters"} <= set(
        values["student"]
    )
    assert {"total", "train", "propagate", "wait", "aggregate"} <= set(values["time_s"])
    assert {"rounds", "bytes_up_per_site_round"} <= set(values["communication"])
    assert {"tasks", "dice_matrix", "acc", "bwt", "forgetting", "fwt"} <= set(values["continual"])
    assert {"hospitals", "mean", "lowest_acc"} <= set(values["held_back"])
    assert {"rows", "left_out"} <= set(values["ledger"])
    assert {"most_loss", "promoted_round", "refused"} <= set(values["release"])


def test_a_report_from_before_the_ledger_is_still_read(make_state: MakeState) -> None:
    report = _report(make_state(1))
    values = report.model_dump(exclude={"held_back", "ledger", "release"})
    for key in ("fwt", "learning_accuracy", "untrained"):
        del values["continual"][key]
    kept = Report.model_validate(values)
    assert (kept.ledger, kept.release, kept.segmenter) == (None, None, report.segmenter)


def test_the_page_loads_nothing_from_elsewhere(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(3, closed=True)
    overlay = Picture("worst", b"\x89PNG")
    _, text = _write(tmp_path, _report(state), plan, state, overlay)
    page = _Page(text)
    # Two plots and the overlay.
    assert len(page.loaded) == 3
    assert all(value.startswith("data:image/png;base64,") for value in page.loaded)
    assert not {"script", "link", "iframe", "object", "embed", "a"} & set(page.tags)
    assert not re.search(r"https?://|url\(|@import", text)


def test_the_page_shows_the_numbers(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(3, closed=True)
    _, text = _write(tmp_path, _report(state), plan, state)
    words = " ".join(_Page(text).text.split())
    for expected in ("0.750", "2.50 mm", "3.25 voxels", "1,234", "north", "silent", "-0.250"):
        assert expected in words, expected
    assert "bytes down / up per hospital and round 100 / 50 of that, segmenter 80 / 45" in words


def test_the_page_says_what_is_protected_and_against_whom(
    tmp_path: Path, make_plan: MakePlan, make_state: MakeState
) -> None:
    state = make_state(3, closed=True)
    spent = [record.model_copy(update={"epsilon": 4.75 * record.round}) for record in state.history]
    noisy = replace(state, history=tuple(spent))
    settings = {"clipping_norm": 2.5, "noise_multiplier": 0.5, "delta": 1e-6}
    plan = make_plan(privacy=settings)
    found = privacy_spent(plan, noisy)
    assert found == PrivacySpent(**settings, noisy_means=3, epsilon_of_one=4.75, epsilon=14.25)
    _, text = _write(tmp_path / "a", _report(noisy, privacy=found), plan, noisy)
    words = " ".join(_Page(text).text.split())
    for expected in ("2.5", "epsilon of all 3, at delta 1e-06", "14.2", "not against the coordin"):
        assert expected in words, expected
    clipped = make_plan(privacy={"clipping_norm": 2.5})
    found = privacy_spent(clipped, state)
    assert found is not None
    assert (found.noisy_means, found.epsilon) == (0, None)
    _, text = _write(tmp_path / "b", _report(state, privacy=found), clipped, state)
    assert "no promise about privacy is made" in text
    assert privacy_spent(make_plan(), state) is None
    _, text = _write(tmp_path / "c", _report(state), plan, state)
    assert "Privacy of one hospital" not in text


def test_a_run_without_test_scans_has_a_page_too(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = replace(make_state(1), history=())
    _, text = _write(tmp_path, _bare(state), plan, state)
    page = _Page(text)
    assert "On test scans" not in page.text
    assert len(page.loaded) == 1


def test_what_was_lost_and_what_may_be_given_out_is_on_the_page(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(release={"most_loss": 0.25})
    rounds = [
        {"a": {"task1": {"<i>head</i>": 1.0, "body": 0.75}}, "b": {"task1": (0.5, 2)}},
        {"a": {"task1": {"<i>head</i>": 0.5, "body": 0.625}}, "b": {"task1": (0.5, 2)}},
        {"a": {"task1": {"<i>head</i>": 0.75, "body": 0.75}}, "b": {"task1": (0.5, 2)}},
    ]
    state = scored_state(plan, rounds)
    report = federation_report(plan, state)
    folder, text = _write(tmp_path, report, plan, state)
    page = _Page(text)
    words = " ".join(page.text.split())
    for expected in (
        # Most lost, Dice before and after with the rounds, slices, classes, lost at the end.
        "a task1 0.312 0.875 (1) → 0.562 (2) 10 <i>head</i> 0.500, body 0.125 0.125",
        "b is not judged on task1: it has 2 slices, fewer than 4.",
        "Round 3 is the newest that may be given out.",
        "2 a lost 0.312 on task1 (0.875 in round 1, now 0.562 on 10 slices); the limit is",
    ):
        assert expected in words, expected
    assert "i" not in page.tags
    # Curves, the matrix of held-back slices, the picture of losses.
    assert len(page.loaded) == 3
    values = json.loads(folder.report_json.read_text(encoding="utf-8"))
    assert values["release"]["promoted_round"] == 3
    assert [row["round"] for row in values["ledger"]["rows"]] == [2, 3]
    assert values["held_back"]["mean"]["dice_matrix"][0] == [(0.5625 + 0.5) / 2, None]


def test_a_long_ledger_is_cut_on_the_page_and_whole_in_the_file(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(release={"most_loss": 0.25})
    names = [f"h{number:02d}" for number in range(MOST_LINES + 3)]
    rounds = [{name: {"task1": dice} for name in names} for dice in (1.0, 0.5)]
    state = scored_state(plan, rounds)
    folder, text = _write(tmp_path, federation_report(plan, state), plan, state)
    words = " ".join(_Page(text).text.split())
    assert words.count("1.000 (1) → 0.500 (2)") == MOST_LINES
    assert "3 smaller ones are in report.json" in words
    values = json.loads(folder.report_json.read_text(encoding="utf-8"))
    assert len(values["ledger"]["rows"]) == len(names)


def test_nothing_lost_and_nothing_scored_are_told_apart(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    steady = scored_state(plan, [{"a": {"task1": 0.5}}] * 3)
    _, text = _write(tmp_path / "a", federation_report(plan, steady), plan, steady)
    assert "No score on 4 held-back slices or more was below the best before it" in text
    assert "the newest round, 3, may be given out" in text
    silent = replace(make_state(1), round=0, history=())
    _, text = _write(tmp_path / "b", federation_report(plan, silent), plan, silent)
    assert "No hospital has scored a round" in text


def test_what_hospitals_write_is_text_and_not_markup(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(2)
    bad = '<b>bold</b><script>alert("x")</script>'
    dropped = Dropped(hospital="<i>west</i>", reason=bad, kind="bad_reply")
    record = state.history[1].model_copy(update={"dropped": (dropped,)})
    state = replace(state, history=(state.history[0], record))
    report = _report(state, scenario="<u>run</u>")
    _, text = _write(tmp_path, report, plan, state, Picture('"><img src=x>', b""))
    page = _Page(text)
    assert not {"i", "u", "script"} & set(page.tags)
    assert "<b>bold" not in text
    assert bad in page.text
    assert "<i>west</i>" in page.text
    assert all(value.startswith("data:") for value in page.loaded)


def test_rows_of_hospitals_by_hand(make_state: MakeState) -> None:
    # `make_state`: north and south train on 1, 2, 3 scans; west never answers.
    north, south, west = site_rows(make_state(3))
    assert north == SiteRow(
        name="north",
        scans=3 + 1,
        annotated_slices=4,
        used=3,
        skipped=1,
        quarantined=0,
        rounds_trained=3,
        rounds_dropped=0,
    )
    assert south == north.model_copy(update={"name": "south"})
    assert (west.name, west.scans, west.rounds_trained, west.rounds_dropped) == ("west", 0, 0, 3)


def test_a_withheld_number_is_none_and_said_so_not_a_zero(
    tmp_path: Path, plan: FederationPlan, make_state: MakeState
) -> None:
    state = make_state(3)
    last = state.history[-1]
    hidden = {"withheld": ("scans_per_task", "used"), "scans_per_task": {}, "used": 0}
    notes = tuple(
        note.model_copy(update=hidden) if note.hospital == "north" else note for note in last.notes
    )
    state = replace(state, history=(*state.history[:-1], last.model_copy(update={"notes": notes})))
    north, south, _ = site_rows(state)
    assert (north.scans, north.used, north.skipped) == (None, None, 1)
    assert (south.scans, south.used, south.skipped) == (4, 3, 1)
    folder, page = _write(tmp_path, _report(state), plan, state)
    assert page.count("withheld") == 2
    row = json.loads(folder.report_json.read_text(encoding="utf-8"))["sites"][0]
    assert (row["scans"], row["used"]) == (None, None)


def _with_self_learning(state: RoundState) -> RoundState:
    """The first round becomes one of self-learning, on 100 scans."""
    changes = {"outcome": "self_learned", "used": 100, "loss": 9.0}
    notes = tuple(note.model_copy(update=changes) for note in state.history[0].notes)
    first = state.history[0].model_copy(update={"notes": notes})
    return replace(state, history=(first, *state.history[1:]))


def test_self_learning_counts_as_no_training_on_labels(make_state: MakeState) -> None:
    north, _, _ = site_rows(_with_self_learning(make_state(3)))
    assert (north.used, north.rounds_trained, north.scans) == (3, 2, 4)
    only, _, _ = site_rows(_with_self_learning(make_state(1)))
    assert (only.used, only.rounds_trained, only.scans) == (0, 0, 4)


def test_communication_by_hand(make_state: MakeState) -> None:
    expected = Communication(
        rounds=2,
        bytes_up_per_site_round=50,
        bytes_down_per_site_round=100,
        bytes_up_by_network={"segmenter": 45, "student": 5},  # one of two sent no student
        bytes_down_by_network={"segmenter": 80, "student": 20},
    )
    assert communication(make_state(2)) == expected
    nothing = replace(make_state(1), round=0, history=())
    assert communication(nothing) == Communication(
        rounds=0, bytes_up_per_site_round=0, bytes_down_per_site_round=0
    )


@pytest.mark.parametrize(("in_turn", "idle"), [(True, 6.0 - 2 * 2.5), (False, 6.0 - 2.5)])
def test_seconds_by_hand(make_state: MakeState, in_turn: bool, idle: float) -> None:
    # Each round: 6 s of waiting for two hospitals of 2 + 0.5 s each, 0.25 s of averaging.
    spent = seconds_spent(make_state(2), 10.0, in_turn=in_turn)
    assert spent.total == 10.0 + 2 * 6.25
    assert (spent.train, spent.score, spent.propagate) == (2 * 2 * 2.0, 2 * 2 * 0.5, 0.0)
    assert (spent.wait, spent.aggregate) == (2 * idle, 0.5)


def test_versions_name_what_bears_on_the_numbers() -> None:
    versions = installed_versions()
    assert {"python", "oneslice", "flwr", "torch", "monai", "mlflow"} <= set(versions)
    assert all(re.match(r"\d+\.\d+", version) for version in versions.values())
