"""Scores of a spread slice against the full label, and a row of the table from many of them.

Other than `client.propagation.score`, which asks how well what was painted was spread, a class that
is in the scan and not on the painted slice counts here: choosing the slice is part of the task.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

import numpy as np
from jaxtyping import Integer

from common.metrics import dice
from common.scans import SliceRef


@dataclass(frozen=True)
class ScanScore:
    """One scan, the painted slice left out everywhere; by label value.

    Attributes:
        dice: 0 for a structure that is missed or invented; without those absent from both.
        overrun_slices: slices that show the class only in the prediction.
        underrun_slices: slices that show it only in the truth.
        by_distance: (slices from the painted one, Dice on that slice), a pair for each class and
            slice that has it in the truth or the prediction.
    """

    dice: dict[int, float]
    overrun_slices: dict[int, int]
    underrun_slices: dict[int, int]
    by_distance: tuple[tuple[int, float], ...]

    @property
    def mean_dice(self) -> float | None:
        """Mean over classes; None where there is nothing to find and nothing was found."""
        return mean(self.dice.values()) if self.dice else None


@dataclass(frozen=True)
class Trial:
    """A method with one seed on all scans, in one order for all methods."""

    scores: tuple[ScanScore, ...]
    seconds_per_scan: float


@dataclass(frozen=True)
class Row:
    """One line of the table, with the keys of the JSON file.

    Dice is the mean over classes of the mean over scans, and over seeds; None where nothing could
    be scored. `dice_by_distance` is (slices from the painted one, mean Dice, how many slices).
    `dice_std_over_scans` is of the scans' mean Dice, `dice_std_over_seeds` of the whole.
    """

    method: str
    plane: str
    slice_choice: str
    scans: int
    mean_dice_without_annotated: float | None
    dice: dict[str, float]
    overrun_slices: float | None
    underrun_slices: float | None
    seconds_per_scan: float
    training_seconds: float
    seeds: int
    dice_std_over_seeds: float | None
    dice_std_over_scans: float | None
    dice_by_distance: tuple[tuple[int, float, int], ...]


def score_scan(
    predicted: Integer[np.ndarray, "i j k"],
    reference: Integer[np.ndarray, "i j k"],
    ref: SliceRef,
) -> ScanScore:
    """Scores all classes of the truth and the prediction on all slices but the painted one."""
    found = np.moveaxis(predicted, ref.axis, 0)
    truth = np.moveaxis(reference, ref.axis, 0)
    distances = [abs(index - ref.index) for index in range(len(truth)) if index != ref.index]
    found, truth = (np.delete(volume, ref.index, axis=0) for volume in (found, truth))
    overlaps: dict[int, float] = {}
    overrun: dict[int, int] = {}
    underrun: dict[int, int] = {}
    by_distance: list[tuple[int, float]] = []
    for value in np.union1d(found, truth).tolist():
        if value == 0:
            continue
        mine, theirs = found == value, truth == value
        shown, there = mine.any(axis=(1, 2)), theirs.any(axis=(1, 2))
        overlaps[value] = dice(mine, theirs) or 0.0
        overrun[value] = int((shown & ~there).sum())
        underrun[value] = int((~shown & there).sum())
        for place in np.flatnonzero(shown | there):
            by_distance.append((distances[place], dice(mine[place], theirs[place]) or 0.0))
    return ScanScore(overlaps, overrun, underrun, tuple(by_distance))


def summarise(
    trials: Sequence[Trial],
    names: Mapping[int, str],
    title: tuple[str, str, str],
    training_s: float,
) -> Row:
    """The row of a method's trials, one for each seed.

    Args:
        trials: at least one, on the same scans.
        names: label value to name.
        title: method, plane and slice choice.
        training_s: mean seconds of training before a trial.
    """
    per_seed = [mean_over_scans([score.dice for score in trial.scores]) for trial in trials]
    classes = mean_over_scans(per_seed)
    wholes = [mean(found.values()) for found in per_seed if found]
    scores = [score for trial in trials for score in trial.scores]
    method, plane, slice_choice = title
    return Row(
        method=method,
        plane=plane,
        slice_choice=slice_choice,
        scans=len(trials[0].scores),
        mean_dice_without_annotated=mean(wholes) if wholes else None,
        dice={names.get(value, f"label-{value}"): dice for value, dice in classes.items()},
        overrun_slices=_mean_over_classes([score.overrun_slices for score in scores]),
        underrun_slices=_mean_over_classes([score.underrun_slices for score in scores]),
        seconds_per_scan=mean(trial.seconds_per_scan for trial in trials),
        training_seconds=training_s,
        seeds=len(trials),
        dice_std_over_seeds=stdev(wholes) if len(wholes) > 1 else None,
        dice_std_over_scans=_std_over_scans(trials),
        dice_by_distance=_mean_by_distance(scores),
    )


def mean_over_scans(scans: Iterable[Mapping[int, float]]) -> dict[int, float]:
    """The mean of each class over the scans (or seeds) that have it."""
    found: dict[int, list[float]] = {}
    for scan in scans:
        for value, number in scan.items():
            found.setdefault(value, []).append(number)
    return {value: mean(numbers) for value, numbers in sorted(found.items())}


def _mean_over_classes(scans: Iterable[Mapping[int, float]]) -> float | None:
    classes = mean_over_scans(scans)
    return mean(classes.values()) if classes else None


def _std_over_scans(trials: Sequence[Trial]) -> float | None:
    """The spread of the scans' mean Dice, each scan averaged over the seeds first."""
    by_scan = zip(*(trial.scores for trial in trials), strict=True)
    kept = [[one.mean_dice for one in seeds if one.mean_dice is not None] for seeds in by_scan]
    means = [mean(numbers) for numbers in kept if numbers]
    return stdev(means) if len(means) > 1 else None


def _mean_by_distance(scores: Iterable[ScanScore]) -> tuple[tuple[int, float, int], ...]:
    found: dict[int, list[float]] = {}
    for score in scores:
        for distance, overlap in score.by_distance:
            found.setdefault(distance, []).append(overlap)
    return tuple(
        (distance, mean(found[distance]), len(found[distance])) for distance in sorted(found)
    )
