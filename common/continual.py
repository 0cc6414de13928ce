"""What a stream of tasks leaves behind: learning, forgetting, and what helps tasks to come."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Row = Sequence[float | None]


@dataclass(frozen=True)
class ContinualScores:
    """A stream in a few numbers; None where the stages so far leave one undefined."""

    acc: float | None = None
    bwt: float | None = None
    fwt: float | None = None
    forgetting: float | None = None
    learning_accuracy: float | None = None


def continual_scores(matrix: Sequence[Row], untrained: Row = ()) -> ContinualScores:
    """The scores of `matrix[stage][task]`, the mean Dice of a task after a stage.

    With T tasks and a[i][j] the Dice of task j after stage i:

    - ACC is the mean of the last row, over the tasks whose stage has come;
    - BWT, what later stages did to a task, the mean over j < T of a[T][j] - a[j][j];
    - forgetting the mean over j < T of the best earlier a[i][j] (j <= i < T) minus a[T][j];
    - FWT, what earlier stages did for a task that nobody has trained on yet, the mean over j > 1 of
      a[j-1][j] - b[j], where b[j], in `untrained`, is the Dice of the fresh weights of round 0, of
      which the same classes are silent;
    - learning accuracy, how well a task is known when its own stage ends, the mean of a[j][j].

    Holes (None) are left out of each mean, and a mean over nothing is None. Lopez-Paz and Ranzato,
    2017 (ACC, BWT, FWT); Chaudhry et al., 2018 (forgetting); Riemer et al., 2019 (learning
    accuracy).
    """
    learned = [_at(row, stage) for stage, row in enumerate(matrix)]
    backward, forgotten = [], []
    last = matrix[-1] if matrix else ()
    for task, when_learned in enumerate(learned[:-1]):
        final = _at(last, task)
        if final is not None and when_learned is not None:
            earlier = [_at(row, task) for row in matrix[task:-1]]
            backward.append(final - when_learned)
            forgotten.append(max(dice for dice in earlier if dice is not None) - final)
    return ContinualScores(
        acc=mean_known(last[: len(matrix)]),
        bwt=mean_known(backward),
        fwt=mean_known(_forward(matrix, untrained)),
        forgetting=mean_known(forgotten),
        learning_accuracy=mean_known(learned),
    )


def _forward(matrix: Sequence[Row], untrained: Row) -> list[float]:
    gains = []
    for task in range(1, len(matrix) + 1):
        before, fresh = _at(matrix[task - 1], task), _at(untrained, task)
        if before is not None and fresh is not None:
            gains.append(before - fresh)
    return gains


def mean_matrix(matrices: Sequence[Sequence[Row]]) -> tuple[tuple[float | None, ...], ...]:
    """Each place's mean over the matrices that have a number there; None where none has.

    All have the same numbers of stages and of tasks.
    """
    return tuple(
        tuple(mean_known(values) for values in zip(*rows, strict=True))
        for rows in zip(*matrices, strict=True)
    )


def _at(row: Row, task: int) -> float | None:
    """A row may end with its own stage's task."""
    return row[task] if task < len(row) else None


def mean_known(values: Row) -> float | None:
    """The mean of those that are numbers; None without any."""
    scored = [value for value in values if value is not None]
    return float(np.mean(scored)) if scored else None
