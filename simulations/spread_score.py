"""How well painted slices were spread: overlap and ends, the painted slices themselves aside."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from common.metrics import dice
from common.scans import LabelMap


@dataclass(frozen=True)
class SpreadScore:
    """Mean Dice over the classes that were painted, with and without what was painted itself.

    `dice_without_annotated` is None where neither the truth nor the label shows any of them on
    another slice.

    `overrun_slices` hold a propagated structure where there is none, `underrun_slices` the other
    way round; both summed over structures.
    """

    dice: float
    dice_without_annotated: float | None
    overrun_slices: int
    underrun_slices: int


def score_spread(
    labels: LabelMap, reference: Integer[np.ndarray, "i j k"], axis: int
) -> SpreadScore | None:
    """Scores the classes painted on slices along the axis; None if no slice shows any."""
    predicted, painted = labels.hard(), np.asarray(labels.expert)
    plane = tuple(other for other in range(3) if other != axis)
    overlaps, without, over, under = [], [], 0, 0
    for index in np.unique(predicted[painted]):
        if index == 0:
            continue
        found, truth = predicted == index, reference == index
        overlaps.append(dice(found, truth))
        rest = dice(found & ~painted, truth & ~painted)
        if rest is not None:
            without.append(rest)
        shown, there = found.any(axis=plane), truth.any(axis=plane)
        over += int((shown & ~there).sum())
        under += int((~shown & there).sum())
    kept = [overlap for overlap in overlaps if overlap is not None]
    if not kept:
        return None
    rest_mean = float(np.mean(without)) if without else None
    return SpreadScore(float(np.mean(kept)), rest_mean, over, under)
