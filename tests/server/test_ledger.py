"""The forgetting ledger against counting by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from scored_rounds import SLICES, Scored, scored_state

from common.plan import FederationPlan
from server.ledger import (
    LargestLoss,
    LedgerRow,
    LeftOut,
    forgetting_ledger,
    largest_losses,
    left_out_sentence,
    loss_sentence,
)
from server.round_state import Dropped, RoundState

MakePlan = Callable[..., FederationPlan]
STREAM = (
    {"north": {"task1": 0.5}, "south": {"task1": 0.75}},
    {"north": {"task1": 0.75}, "south": {"task1": 0.5}},
    {"north": {"task1": 0.25, "task2": 0.5}, "south": {"task1": 0.625}},
)


def _row(number: int, hospital: str, task: str, best: tuple[float, int], now: float) -> LedgerRow:
    loss = best[0] - now
    return LedgerRow(
        round=number,
        hospital=hospital,
        task=task,
        best=best[0],
        best_round=best[1],
        now=now,
        loss=loss,
        slices=SLICES,
        lost_by_class={"organ": loss} if loss > 0 else {},
    )


def test_a_row_for_every_score_of_the_round_that_made_the_models(plan: FederationPlan) -> None:
    ledger = forgetting_ledger(plan, scored_state(plan, STREAM))
    # The scores of 0.99 that fresh weights had are no best: nobody trained them.
    assert ledger.rows == (
        _row(1, "north", "task1", (0.5, 1), 0.5),
        _row(1, "south", "task1", (0.75, 1), 0.75),
        _row(2, "north", "task1", (0.75, 2), 0.75),
        _row(2, "south", "task1", (0.75, 1), 0.5),
        _row(3, "north", "task1", (0.75, 2), 0.25),
        _row(3, "north", "task2", (0.5, 3), 0.5),
        _row(3, "south", "task1", (0.75, 1), 0.625),
    )
    assert [(row.round, row.hospital, row.loss) for row in ledger.losses] == [
        (2, "south", 0.25),
        (3, "north", 0.5),
        (3, "south", 0.125),
    ]
    assert ledger.newest == ledger.rows[4:]
    assert ledger.left_out == ()


def test_what_is_not_scored_yet_has_no_row(plan: FederationPlan) -> None:
    open_end = forgetting_ledger(plan, scored_state(plan, STREAM[:2], closed=False))
    assert open_end.rows == forgetting_ledger(plan, scored_state(plan, STREAM)).rows[:4]
    only_begun = forgetting_ledger(plan, RoundState(0, {}, {}, ()))
    assert (only_begun.rows, only_begun.newest, only_begun.left_out) == ((), (), ())


def test_rounds_of_self_learning_have_no_row(make_plan: MakePlan) -> None:
    plan = make_plan(correspondence={"rounds": 2}, propagation={"candidates": ["correspondence"]})
    ledger = forgetting_ledger(plan, scored_state(plan, STREAM))
    assert {row.round for row in ledger.rows} == {3}
    assert ledger.losses == ()


def test_a_class_is_measured_by_its_own_best(plan: FederationPlan) -> None:
    # The mean rises from 0.5 to 0.625; of the classes only one does.
    scores = [{"north": {"task1": {"head": 0.75, "body": 0.25}}},
              {"north": {"task1": {"head": 0.5, "body": 0.75}}}]  # fmt: skip
    (_, row) = forgetting_ledger(plan, scored_state(plan, scores)).rows
    assert (row.best, row.now, row.loss, row.best_round) == (0.625, 0.625, 0.0, 2)
    assert row.lost_by_class == {"head": 0.25}


def test_a_class_that_nobody_painted_or_found_has_lost_nothing(plan: FederationPlan) -> None:
    scores = [{"north": {"task1": {"head": 0.75, "body": 0.25}}}, {"north": {"task1": {}}},
              {"north": {"task1": {"body": 0.25}}}]  # fmt: skip
    first, last = forgetting_ledger(plan, scored_state(plan, scores)).rows
    assert (first.round, last.round) == (1, 3)
    assert last.lost_by_class == {}
    assert last.loss == 0


@pytest.mark.parametrize(("slices", "loss"), [(8, 0.5), (9, 0.0)])
def test_a_best_on_fewer_than_half_of_the_slices_is_no_measure(
    plan: FederationPlan, slices: int, loss: float
) -> None:
    scores = [{"north": {"task1": (0.75, 4)}}, {"north": {"task1": (0.25, slices)}}]
    row = forgetting_ledger(plan, scored_state(plan, scores)).rows[-1]
    assert (row.loss, row.slices) == (loss, slices)


@pytest.mark.parametrize(("before", "after", "loss"), [
    # A body was painted since, on one more slice or on one that was corrected.
    (({"head": 0.75}, 4), ({"head": 0.75, "body": 0.25}, 5), 0.0),
    (({"head": 0.75}, 4), ({"head": 0.75, "body": 0.25}, 4), 0.0),
    # The only slice with one was withdrawn.
    (({"head": 0.25, "body": 0.75}, 5), ({"head": 0.25}, 4), 0.0),
    # What both have is compared all the same.
    (({"head": 0.75}, 4), ({"head": 0.25, "body": 1.0}, 5), 0.5),
    (({"head": 0.75, "body": 0.75}, 5), ({"head": 0.5}, 4), 0.25),
])  # fmt: skip
def test_a_best_is_compared_over_the_classes_that_both_show(
    plan: FederationPlan, before: Scored, after: Scored, loss: float
) -> None:
    scores = [{"north": {"task1": before}}, {"north": {"task1": after}}]
    row = forgetting_ledger(plan, scored_state(plan, scores)).rows[-1]
    assert (row.round, row.loss) == (2, loss)
    assert row.best - row.now == row.loss
    assert row.lost_by_class == ({"head": loss} if loss else {})


def test_a_score_on_too_few_slices_has_no_row_and_is_said_to_be_so(make_plan: MakePlan) -> None:
    plan = make_plan(release={"least_slices": 5})
    scores = [
        {"north": {"task1": (0.75, 4), "task2": (0.75, 5)}, "south": {"task1": (0.75, 5)}},
        {"north": {"task1": (0.25, 3), "task2": (0.5, 5)}, "south": {"task1": (0.25, 4)}},
    ]
    ledger = forgetting_ledger(plan, scored_state(plan, scores))
    assert [(row.round, row.hospital, row.task) for row in ledger.rows] == [
        (1, "north", "task2"),
        (1, "south", "task1"),
        (2, "north", "task2"),
    ]
    # South had enough of them once.
    assert ledger.left_out == (
        LeftOut(hospital="north", task="task1", why="has 4 slices, fewer than 5"),
    )


def test_a_single_slice_is_said_so(make_plan: MakePlan) -> None:
    plan = make_plan(release={"least_slices": 2})
    (left_out,) = forgetting_ledger(
        plan, scored_state(plan, [{"north": {"task1": (0.75, 1)}}])
    ).left_out
    assert left_out.why == "has 1 slice, fewer than 2"


def test_hospitals_without_scores_are_named_with_the_reason(plan: FederationPlan) -> None:
    scores = [{"east": {}, "north": {"task1": 0.5}, "south": {}}] * 2
    state = scored_state(plan, scores)
    assert state.closing is not None
    notes = [
        note.model_copy(update={"withheld": ("scores",)}) if note.hospital == "south" else note
        for note in state.closing.notes
    ]
    silent = Dropped(hospital="west", reason="no answer", kind="silent")
    history = tuple(one.model_copy(update={"dropped": (silent,)}) for one in state.history)
    closing = state.closing.model_copy(update={"notes": tuple(notes)})
    ledger = forgetting_ledger(plan, replace(state, history=history, closing=closing))
    assert [left_out_sentence(one) for one in ledger.left_out] == [
        "east is not judged: it has sent no score: nothing is painted on its held-back scans, or "
        "it stayed out",
        "south is not judged: it keeps its scores back",
        "west is not judged: it has not scored any round",
    ]


def test_the_largest_loss_of_each_hospital_and_task_and_what_became_of_it(
    plan: FederationPlan,
) -> None:
    ledger = forgetting_ledger(plan, scored_state(plan, STREAM))
    assert largest_losses(ledger) == (
        LargestLoss(worst=ledger.rows[4], newest=ledger.rows[4]),  # north's task1: 0.5, at the end
        LargestLoss(worst=ledger.rows[3], newest=ledger.rows[6]),  # south's: 0.25, half of it back
    )


def test_a_row_for_people(plan: FederationPlan) -> None:
    ledger = forgetting_ledger(plan, scored_state(plan, STREAM))
    expected = "north lost 0.500 on task1 (0.750 in round 2, now 0.250 on 10 slices)"
    assert loss_sentence(ledger.losses[1]) == expected
