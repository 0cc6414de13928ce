import pytest

from common.updates import Note, TaskScore
from server.round_state import RoundRecord, RoundState


def note(hospital: str, *scores: tuple[str, dict[str, float], int]) -> Note:
    found = tuple(
        TaskScore(task=task, dice=dice, cases=cases, missed=0) for task, dice, cases in scores
    )
    return Note(hospital=hospital, outcome="trained", scores=found)


def test_held_back_dice_of_each_class_weighs_tasks_by_their_slices() -> None:
    notes = (
        note("a", ("low", {"x": 0.5, "y": 0.7}, 6), ("mid", {"x": 0.9}, 2)),
        note("b", ("low", {"x": 0.8, "y": 0.1}, 4)),
    )
    record = RoundRecord(round=1, stage=0, notes=notes)
    # x: (0.5 * 6 + 0.9 * 2 + 0.8 * 4) / 12; y: (0.7 * 6 + 0.1 * 4) / 10
    assert record.held_back_dice(12) == pytest.approx({"x": 8 / 12})
    assert record.held_back_dice(10)["y"] == pytest.approx(0.46)


@pytest.mark.parametrize("slices", [1, 7])
def test_a_class_scored_on_too_few_slices_is_left_out(slices: int) -> None:
    notes = (note("a", ("low", {"x": 0.5}, slices), ("mid", {"y": 0.5}, 8)),)
    assert RoundRecord(round=1, stage=0, notes=notes).held_back_dice(8) == {"y": 0.5}
    assert RoundRecord(round=1, stage=0).held_back_dice(1) == {}


def test_a_rounds_scores_come_with_the_next_or_with_the_closing_ones() -> None:
    first, second = (RoundRecord(round=number, stage=0) for number in (1, 2))
    closing = RoundRecord(round=2, stage=0, notes=(note("a"),))
    state = RoundState(2, {}, {}, (first, second))
    # Round 0: the fresh weights, which came into round 1.
    assert [state.scores_of(number) for number in (0, 1, 2)] == [first, second, None]
    closed = RoundState(2, {}, {}, (first, second), closing)
    assert [closed.scores_of(number) for number in (1, 2, 3)] == [second, closing, None]
