"""How well a painted slice was spread: overlap and the organ's ends, the slice itself aside."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Integer

from common.metrics import dice
from common.scans import LabelMap, SliceRef


@dataclass(frozen=True)
class SpreadScore:
    """Mean Dice over the classes that were painted, with and without the painted slice.

    `overrun_slices` hold a propagated structure where there is none, `underrun_slices` the other
    way round; both summed over structures.
    """

    dice: float
    dice_without_annotated: float
    overrun_slices: int
    underrun_slices: int


def score_spread(
    labels: LabelMap, reference: Integer[np.ndarray, "i j k"], ref: SliceRef
) -> SpreadScore | None:
    """Scores the classes painted on `ref`; None if nothing was painted there."""
    predicted = labels.hard()
    others = np.ones(reference.shape, dtype=bool)
    others[ref.selection] = False
    plane = tuple(axis for axis in range(3) if axis != ref.axis)
    overlaps, without, over, under = [], [], 0, 0
    for index in np.unique(predicted[ref.selection]):
        if index == 0:
            continue
        found, truth = predicted == index, reference == index
        overlaps.append(dice(found, truth))
        rest = dice(found & others, truth & others)
        if rest is not None:
            without.append(rest)
        shown, there = found.any(axis=plane), truth.any(axis=plane)
        over += int((shown & ~there).sum())
        under += int((~shown & there).sum())
    kept = [overlap for overlap in overlaps if overlap is not None]
    if not kept:
        return None
    rest_mean = float(np.mean(without)) if without else 1.0
    return SpreadScore(float(np.mean(kept)), rest_mean, over, under)
