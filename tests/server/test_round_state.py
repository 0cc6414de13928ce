import pytest

from common.updates import Note, TaskScore
from server.round_state import SLICES_TO_JUDGE_BY, RoundRecord


def note(hospital: str, *scores: tuple[str, dict[str, float], int]) -> Note:
    found = tuple(
        TaskScore(task=task, dice=dice, cases=cases, missed=0) for task, dice, cases in scores
    )
    return Note(hospital=hospital, outcome="trained", scores=found)


def test_held_back_dice_weighs_each_task_by_its_slices() -> None:
    notes = (
        note("a", ("low", {"x": 0.5, "y": 0.7}, 6), ("mid", {"x": 0.9}, 2)),
        note("b", ("low", {"x": 0.8}, 4)),
    )
    record = RoundRecord(round=1, stage=0, notes=notes)
    # (0.6 * 6 + 0.9 * 2 + 0.8 * 4) / 12
    assert record.held_back_dice == pytest.approx(8.6 / 12)


def test_scores_without_any_class_do_not_count() -> None:
    notes = (note("a", ("low", {"x": 0.5}, SLICES_TO_JUDGE_BY)), note("b", ("low", {}, 100)))
    assert RoundRecord(round=1, stage=0, notes=notes).held_back_dice == 0.5


@pytest.mark.parametrize("slices", [0, SLICES_TO_JUDGE_BY - 1])
def test_too_few_slices_tell_nothing(slices: int) -> None:
    notes = (note("a", ("low", {"x": 0.5}, slices)),)
    assert RoundRecord(round=1, stage=0, notes=notes).held_back_dice is None
    assert RoundRecord(round=1, stage=0).held_back_dice is None
