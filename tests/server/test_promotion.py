"""The release gate: which rounds pass, and the reasons of the others."""

from collections.abc import Callable

import pytest
from scored_rounds import RoundScores, scored_state

from common.plan import FederationPlan
from server.promotion import Verdict, judge_rounds, promoted_round, release_gate
from server.round_state import RoundState

MakePlan = Callable[..., FederationPlan]


def _gated(make_plan: MakePlan, most_loss: float | None = 0.25) -> FederationPlan:
    return make_plan((9,), release={"most_loss": most_loss, "least_slices": 4})


def _north(*dice: float) -> list[RoundScores]:
    return [{"north": {"task1": one}} for one in dice]


def _promoted(plan: FederationPlan, state: RoundState) -> list[int]:
    return [one.round for one in judge_rounds(plan, state) if one.is_promoted]


def test_without_a_limit_every_round_is_promoted_at_once(make_plan: MakePlan) -> None:
    plan = _gated(make_plan, None)
    state = scored_state(plan, _north(0.75, 0.0), closed=False)
    assert judge_rounds(plan, state) == tuple(Verdict(round=number) for number in (1, 2, 3))
    assert release_gate(plan, state).promoted_round == 3


def test_a_loss_beyond_the_limit_is_refused_with_the_reason(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    state = scored_state(plan, _north(0.75, 0.5, 0.25))
    first, second, third = judge_rounds(plan, state)
    # Just the limit is no more than the limit.
    assert (first.is_promoted, second.is_promoted, third.is_promoted) == (True, True, False)
    assert third.why_not == (
        "north lost 0.500 on task1 (0.750 in round 1, now 0.250 on 10 slices); the limit is 0.25"
    )
    assert [row.loss for row in third.losses] == [0.5]
    gate = release_gate(plan, state)
    assert (gate.promoted_round, gate.refused, gate.most_loss) == (2, (third,), 0.25)


def test_the_measure_is_the_best_promoted_round_not_the_best_of_all(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    # Round 2 is refused for south, so that it is better for north makes nobody poorer in round 3.
    rounds = [
        {"north": {"task1": 0.5}, "south": {"task1": 0.75}},
        {"north": {"task1": 1.0}, "south": {"task1": 0.0}},
        {"north": {"task1": 0.5}, "south": {"task1": 0.75}},
    ]
    assert _promoted(plan, scored_state(plan, rounds)) == [1, 3]


def test_a_slow_decline_adds_up(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    state = scored_state(plan, _north(1.0, 0.875, 0.75, 0.625, 0.75))
    assert _promoted(plan, state) == [1, 2, 3, 5]


def test_one_task_of_one_hospital_is_enough(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    before = {"north": {"task1": 0.5, "task2": 0.875}, "south": {"task1": 0.5, "task2": 0.875}}
    after = {"north": {"task1": 0.75, "task2": 0.875}, "south": {"task1": 0.125, "task2": 0.375}}
    _, verdict = judge_rounds(plan, scored_state(plan, [before, after]))
    assert [(row.hospital, row.task) for row in verdict.losses] == [
        ("south", "task2"),
        ("south", "task1"),
    ]
    assert verdict.why_not.startswith("south lost 0.500 on task2")
    assert verdict.why_not.endswith(", and 1 more; the limit is 0.25")


def test_a_task_that_begins_has_nothing_to_lose(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    rounds = [{"north": {"task1": 0.75}}, {"north": {"task1": 0.75, "task2": 0.0}}]
    assert _promoted(plan, scored_state(plan, rounds)) == [1, 2]


@pytest.mark.parametrize(("rounds", "comes_with"), [(9, "round 3"), (2, "the closing scores")])
def test_a_round_that_is_not_scored_yet_waits(
    make_plan: MakePlan, rounds: int, comes_with: str
) -> None:
    plan = make_plan((rounds,), release={"most_loss": 0.25})
    first, second = judge_rounds(plan, scored_state(plan, _north(0.75), closed=False))
    assert first.is_promoted
    assert second.why_not == f"not scored yet: its scores come with {comes_with}"


def test_a_round_that_nobody_can_judge_is_refused(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    state = scored_state(plan, [{"north": {"task1": (0.75, 3)}}])
    (verdict,) = judge_rounds(plan, state)
    assert verdict.why_not == "no hospital has scored it on 4 slices or more"
    assert promoted_round([verdict]) is None
    assert release_gate(plan, state).promoted_round is None


def test_what_one_hospital_scores_on_too_few_slices_refuses_nothing(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    rounds = [{"north": {"task1": 0.75}, "south": {"task1": (one, 3)}} for one in (1.0, 0.0)]
    assert _promoted(plan, scored_state(plan, rounds)) == [1, 2]


def test_a_hospital_that_did_not_score_is_named_and_keeps_its_measure(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    both = {"north": {"task1": 0.75}, "south": {"task1": 0.75}}
    rounds = [both, {"north": {"task1": 0.75}}, {"north": {"task1": 0.75}, "south": {"task1": 0.0}}]
    state = scored_state(plan, rounds)
    first, second, third = judge_rounds(plan, state)
    assert (first.unheard, second.unheard, third.unheard) == ((), ("south",), ())
    assert second.is_promoted
    assert third.losses[0].best_round == 1
    gate = release_gate(plan, state)
    assert (gate.promoted_round, gate.unheard) == (2, ("south",))


def test_a_hospital_that_stops_to_score_one_task_is_named_with_it(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    both = {"task1": 0.75, "task2": 0.75}
    rounds = [{"north": both, "south": both}, {"north": {"task2": 0.75}}]
    _, verdict = judge_rounds(plan, scored_state(plan, rounds))
    assert verdict.unheard == ("north on task1", "south")


def test_self_learning_gives_nothing_out_with_a_gate_or_without(make_plan: MakePlan) -> None:
    for most_loss in (None, 0.25):
        plan = make_plan(
            (9,),
            correspondence={"rounds": 2},
            propagation={"candidates": ["correspondence"]},
            release={"most_loss": most_loss},
        )
        for rounds, promoted in ((1, []), (2, []), (3, [3])):
            state = scored_state(plan, _north(*[0.5] * rounds))
            assert _promoted(plan, state) == promoted
        assert "trains no segmenter" in judge_rounds(plan, state)[0].why_not


def test_a_verdict_does_not_change_when_rounds_are_added(make_plan: MakePlan) -> None:
    plan = _gated(make_plan)
    dice = _north(0.5, 0.75, 0.25, 0.625, 0.375, 0.875)
    whole = judge_rounds(plan, scored_state(plan, dice))
    for number in range(1, len(dice)):
        so_far = judge_rounds(plan, scored_state(plan, dice[:number], closed=False))
        assert so_far[:-1] == whole[:number]
