"""States of a federation in which hospitals have scored the rounds as a test wants it."""

from collections.abc import Mapping, Sequence

import numpy as np

from common.plan import FederationPlan
from common.updates import Note, TaskScore
from server.round_state import RoundRecord, RoundState

SLICES = 10
# Of a task: the Dice of its only class, of each class, or one of these and on how many slices.
Scored = float | dict[str, float] | tuple[float | dict[str, float], int]
RoundScores = Mapping[str, Mapping[str, Scored]]


def scored_state(
    plan: FederationPlan, scores: Sequence[RoundScores], *, closed: bool = True
) -> RoundState:
    """A state whose round n has the n-th scores, by hospital and task.

    Round 1 begins with fresh weights, which every hospital scores with 0.99: nothing may count
    that. If it is not `closed`, one more round has been trained, which nobody has scored yet.
    """
    begun = scores[0] if scores else {}
    fresh = {name: dict.fromkeys(found, 0.99) for name, found in begun.items()}
    asked = [fresh, *scores]
    number = len(scores) if closed else len(scores) + 1
    history = tuple(_record(plan, n, found) for n, found in enumerate(asked[:number], 1))
    closing = _record(plan, number, scores[-1], "scored") if closed else None
    arrays = {"segmenter/a": np.full(3, number, np.float32), "student/b": np.zeros(2, np.float32)}
    return RoundState(number, arrays, {}, history, closing)


def _record(
    plan: FederationPlan, number: int, scores: RoundScores, outcome: str = "trained"
) -> RoundRecord:
    notes = tuple(
        Note.model_validate(
            {
                "hospital": name,
                "outcome": outcome,
                "round": number,
                "scores": tuple(_score(task, one) for task, one in found.items()),
            }
        )
        for name, found in sorted(scores.items())
    )
    return RoundRecord(
        round=number, stage=plan.stage_of_round(number), notes=notes, seconds={"wait": 1.0}
    )


def _score(task: str, scored: Scored) -> TaskScore:
    slices = SLICES
    if isinstance(scored, tuple):
        scored, slices = scored
    dice = scored if isinstance(scored, dict) else {"organ": scored}
    return TaskScore(task=task, dice=dice, cases=slices, missed=0)
