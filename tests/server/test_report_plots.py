"""The pictures of a report: every number where it belongs."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scored_rounds import scored_state

from common.plan import FederationPlan
from server.ledger import forgetting_ledger
from server.report_plots import MOST_ROWS, plot_curves, plot_losses, plot_matrix
from server.round_state import RoundState

MakeState = Callable[..., RoundState]
MakePlan = Callable[..., FederationPlan]


def _with_self_learning(state: RoundState) -> RoundState:
    """The first round becomes one of self-learning, on 100 scans."""
    changes = {"outcome": "self_learned", "used": 100, "loss": 9.0}
    notes = tuple(note.model_copy(update=changes) for note in state.history[0].notes)
    first = state.history[0].model_copy(update={"notes": notes})
    return replace(state, history=(first, *state.history[1:]))


def test_the_loss_curves_leave_self_learning_out_and_a_line_marks_its_end(
    make_plan: MakePlan, make_state: MakeState
) -> None:
    plan = make_plan(correspondence={"rounds": 1}, propagation={"candidates": ["correspondence"]})
    _, right = plot_curves(plan, _with_self_learning(make_state(3))).axes
    losses = {line.get_label(): list(line.get_xdata()) for line in right.lines[:2]}
    assert losses == {"north": [2, 3], "south": [2, 3]}
    # Self-learning ends with round 1 of 4, the first stage with round 3.
    assert [line.get_xdata()[0] for line in right.lines[2:]] == [1.5, 3.5]


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
    (axes,) = plot_matrix(("a", "b"), ((0.5, None), (0.25, 0.75))).axes
    found = {text.get_position(): text.get_text() for text in axes.texts}
    assert found == {(0, 0): "0.500", (1, 0): "-", (0, 1): "0.250", (1, 1): "0.750"}


def test_a_stage_that_has_not_come_has_no_row() -> None:
    (axes,) = plot_matrix(("a", "b"), ((0.5, None),)).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["after a"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b"]


def test_the_losses_stand_in_their_round_and_row(plan: FederationPlan) -> None:
    rounds = [
        {"north": {"task1": 0.75}, "south": {"task1": 0.5}},
        {"north": {"task1": 0.5}},
        {"north": {"task1": 0.75, "task2": 0.5}, "south": {"task1": 0.25}},
    ]
    axes, _ = plot_losses(plan, forgetting_ledger(plan, scored_state(plan, rounds))).axes
    rows = ["north  task1", "north  task2", "south  task1"]
    assert [label.get_text() for label in axes.get_yticklabels()] == rows
    (image,) = axes.images
    # Grey, no number, where nobody scored: task2 before its stage, south while it was away.
    nothing = np.nan
    expected = [[0, 0.25, 0], [nothing, nothing, 0], [0, nothing, 0.25]]
    np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), expected)
    assert image.get_extent() == [0.5, 3.5, 2.5, -0.5]
    # The first stage ends with round 2.
    assert [line.get_xdata()[0] for line in axes.lines] == [2.5]


def test_of_many_hospitals_those_that_lost_most_are_drawn(plan: FederationPlan) -> None:
    names = [f"h{number:02d}" for number in range(MOST_ROWS + 6)]
    before = {name: {"task1": 1.0} for name in names}
    after = {name: {"task1": 1.0 - place / 64} for place, name in enumerate(names)}
    axes, _ = plot_losses(plan, forgetting_ledger(plan, scored_state(plan, [before, after]))).axes
    shown = [label.get_text().split()[0] for label in axes.get_yticklabels()]
    assert shown == names[6:]


def test_a_small_loss_is_pale(plan: FederationPlan) -> None:
    rounds = [{"north": {"task1": 0.75}}, {"north": {"task1": 0.74}}]
    axes, _ = plot_losses(plan, forgetting_ledger(plan, scored_state(plan, rounds))).axes
    assert axes.images[0].get_clim() == (0, 0.1)
