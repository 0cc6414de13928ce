"""The report of a small run: right numbers, a page that calls nobody, names that are not markup."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from common.plan import FederationPlan
from server.report import (
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
    installed_versions,
    plot_curves,
    plot_matrix,
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
    report = _report(state)
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


def test_the_loss_curves_leave_self_learning_out_and_a_line_marks_its_end(
    make_plan: MakePlan, make_state: MakeState
) -> None:
    plan = make_plan(correspondence={"rounds": 1}, propagation={"candidates": ["correspondence"]})
    _, right = plot_curves(plan, _with_self_learning(make_state(3))).axes
    losses = {line.get_label(): list(line.get_xdata()) for line in right.lines[:2]}
    assert losses == {"north": [2, 3], "south": [2, 3]}
    # Self-learning ends with round 1 of 4, the first stage with round 3.
    assert [line.get_xdata()[0] for line in right.lines[2:]] == [1.5, 3.5]


def test_communication_by_hand(make_state: MakeState) -> None:
    expected = Communication(rounds=2, bytes_up_per_site_round=50, bytes_down_per_site_round=100)
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


def test_curves_are_of_the_model_that_was_scored(
    plan: FederationPlan, make_state: MakeState
) -> None:
    left, right = plot_curves(plan, make_state(3, closed=True)).axes
    (dice,) = [line for line in left.lines if line.get_label() == "task1"]
    # In round r hospitals score the model of r - 1 trained rounds; the closing scores end the line.
    assert list(dice.get_xdata()) == [0, 1, 2, 3]
    assert list(dice.get_ydata()) == [0.25, 0.5, 0.75, 0.75]
    losses = {line.get_label(): list(line.get_ydata()) for line in right.lines[:2]}
    assert losses == {"north": [1, 1 / 2, 1 / 3], "south": [1, 1 / 2, 1 / 3]}


def test_the_matrix_shows_every_number() -> None:
    matrix = Continual(
        tasks=("a", "b"),
        dice_matrix=((0.5, None), (0.25, 0.75)),
        acc=0.5,
        bwt=None,
        forgetting=None,
    )
    (axes,) = plot_matrix(matrix).axes
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "0.500", (1, 0): "-", (0, 1): "0.250", (1, 1): "0.750"}


def test_versions_name_what_bears_on_the_numbers() -> None:
    versions = installed_versions()
    assert {"python", "oneslice", "flwr", "torch", "monai", "mlflow"} <= set(versions)
    assert all(re.match(r"\d+\.\d+", version) for version in versions.values())
