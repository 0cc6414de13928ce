"""Stage by task on the slices that hospitals hold back: what nobody needs full labels for."""

from collections.abc import Sequence

import numpy as np

from common.continual import ContinualScores, continual_scores, mean_known, mean_matrix
from common.plan import FederationPlan
from common.settings_file import Settings
from server.round_state import RoundState

DiceMatrix = tuple[tuple[float | None, ...], ...]


class HeldBackScores(Settings):
    """One hospital's stream, or the mean of all hospitals' numbers: `dice_matrix[stage][task]`.

    A task is first scored when its own stage begins, by the models that the stage before has left.
    Forward transfer is left out: no hospital scores fresh weights on tasks that are still to come.
    """

    dice_matrix: DiceMatrix
    acc: float | None
    bwt: float | None
    forgetting: float | None
    learning_accuracy: float | None


class HeldBack(Settings):
    """All hospitals that have scored the end of a stage, and how far they lie apart.

    `lowest_acc` is that of the hospital that the last stage serves worst, `spread_acc` the standard
    deviation over hospitals.
    """

    tasks: tuple[str, ...]
    hospitals: dict[str, HeldBackScores]
    mean: HeldBackScores
    lowest_acc: float | None
    spread_acc: float | None


def held_back_scores(plan: FederationPlan, state: RoundState) -> HeldBack | None:
    """The hospitals' scores of the models that ended each stage; None before anybody has one."""
    ends = [plan.last_round_of_stage(stage) for stage in range(len(plan.tasks))]
    ended = [state.scores_of(number) for number in ends if number <= state.round]
    names = sorted({note.hospital for end in ended if end for note in end.notes if note.scores})
    if not names:
        return None
    matrices: dict[str, DiceMatrix] = {}
    for name in names:
        rows = []
        for end in ended:
            notes = [note for note in end.notes if note.hospital == name] if end else []
            dice = {score.task: score.mean_dice for note in notes for score in note.scores}
            rows.append(tuple(dice.get(task.name) for task in plan.tasks))
        matrices[name] = tuple(rows)
    hospitals = {name: _summarise(matrix) for name, matrix in matrices.items()}
    accuracies = [one.acc for one in hospitals.values() if one.acc is not None]
    return HeldBack(
        tasks=tuple(task.name for task in plan.tasks),
        hospitals=hospitals,
        mean=_mean_of(list(hospitals.values())),
        lowest_acc=min(accuracies, default=None),
        spread_acc=float(np.std(accuracies)) if accuracies else None,
    )


def _mean_of(hospitals: Sequence[HeldBackScores]) -> HeldBackScores:
    """Number by number: of the mean matrix, two places may be means over different hospitals."""
    return HeldBackScores(
        dice_matrix=mean_matrix([one.dice_matrix for one in hospitals]),
        acc=mean_known([one.acc for one in hospitals]),
        bwt=mean_known([one.bwt for one in hospitals]),
        forgetting=mean_known([one.forgetting for one in hospitals]),
        learning_accuracy=mean_known([one.learning_accuracy for one in hospitals]),
    )


def _summarise(matrix: DiceMatrix) -> HeldBackScores:
    scores: ContinualScores = continual_scores(matrix)
    return HeldBackScores(
        dice_matrix=matrix,
        acc=scores.acc,
        bwt=scores.bwt,
        forgetting=scores.forgetting,
        learning_accuracy=scores.learning_accuracy,
    )
