"""Each hospital's stage-by-task matrix against counting by hand."""

from collections.abc import Callable

import pytest
from scored_rounds import scored_state

from common.plan import FederationPlan
from server.held_back import HeldBackScores, held_back_scores
from server.round_state import RoundState

MakePlan = Callable[..., FederationPlan]
# `plan`: task1 ends with round 2, task2 with round 3.
ROUNDS = (
    {"north": {"task1": 0.1}, "south": {"task1": 0.2}},
    {"north": {"task1": 0.75, "task2": 0.125}, "south": {"task1": 0.5}},
    {"north": {"task1": 0.5, "task2": 0.75}, "south": {"task1": 0.625, "task2": 0.25}},
)


def test_the_matrices_are_of_the_models_that_ended_a_stage(plan: FederationPlan) -> None:
    found = held_back_scores(plan, scored_state(plan, ROUNDS))
    assert found is not None
    assert found.tasks == ("task1", "task2")
    assert found.hospitals == {
        "north": HeldBackScores(
            dice_matrix=((0.75, 0.125), (0.5, 0.75)),
            acc=0.625,
            bwt=-0.25,
            forgetting=0.25,
            learning_accuracy=0.75,
        ),
        "south": HeldBackScores(
            dice_matrix=((0.5, None), (0.625, 0.25)),
            acc=0.4375,
            bwt=0.125,
            forgetting=-0.125,
            learning_accuracy=0.375,
        ),
    }
    assert found.mean.dice_matrix == ((0.625, 0.125), (0.5625, 0.5))
    assert (found.mean.acc, found.mean.bwt) == (0.53125, -0.0625)
    # 0.625 and 0.4375 lie 0.09375 from their mean.
    assert (found.lowest_acc, found.spread_acc) == pytest.approx((0.4375, 0.09375))


def test_the_mean_forgets_what_hospitals_forget_and_nothing_else(plan: FederationPlan) -> None:
    # South came late and is worse on task1 than north; nobody has lost anything.
    rounds = [{"north": {"task1": 0.75}}] * 2
    rounds += [{"north": {"task1": 0.75, "task2": 0.5}, "south": {"task1": 0.25, "task2": 0.5}}]
    found = held_back_scores(plan, scored_state(plan, rounds))
    assert found is not None
    assert found.mean.dice_matrix == ((0.75, None), (0.5, 0.5))
    assert found.hospitals["south"].bwt is None
    assert (found.mean.bwt, found.mean.forgetting, found.mean.acc) == (0.0, 0.0, 0.5)


def test_a_stage_that_is_not_over_has_no_row(plan: FederationPlan) -> None:
    assert held_back_scores(plan, RoundState(0, {}, {}, ())) is None
    assert held_back_scores(plan, scored_state(plan, ROUNDS[:1], closed=False)) is None
    found = held_back_scores(plan, scored_state(plan, ROUNDS[:2], closed=False))
    assert found is not None
    # Round 3 is trained; its scores have not come.
    assert found.hospitals["north"].dice_matrix == ((0.75, 0.125), (None, None))
    assert found.mean.bwt is None


def test_a_hospital_that_was_away_at_an_end_leaves_a_hole(plan: FederationPlan) -> None:
    rounds = [ROUNDS[0], {"north": ROUNDS[1]["north"]}, ROUNDS[2]]
    found = held_back_scores(plan, scored_state(plan, rounds))
    assert found is not None
    assert found.hospitals["south"].dice_matrix == ((None, None), (0.625, 0.25))
    assert found.mean.dice_matrix[0] == (0.75, 0.125)


def test_hospitals_without_scores_have_no_matrix(plan: FederationPlan) -> None:
    assert held_back_scores(plan, scored_state(plan, [{"north": {}}] * 3)) is None
