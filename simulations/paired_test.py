"""Is an arm better on the same patients? Wilcoxon's signed-rank test, Holm's correction.

Wilcoxon, "Individual comparisons by ranking methods" (1945); Holm, "A simple sequentially rejective
multiple test procedure" (1979).
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

MOST_TIED = 12  # with ties, all ways to sign so many differences are tried


def mean_differences(
    arm: Sequence[Mapping[str, float]],
    other: Sequence[Mapping[str, float]],
    patients: Sequence[Mapping[str, str]],
) -> dict[str, float]:
    """By how much each patient is better in `arm` than in `other`, a mean over paired runs.

    Args:
        arm: the Dice of each scan by its name, run by run.
        other: the same runs (seed and order) of the other arm, in the same order.
        patients: whom each scan of these runs is of.

    A scan counts where both runs scored it. Scans of one patient, and runs of the same scan, are no
    independent trials, so each patient gives one number, however many there are.
    """
    # Equal differences are ties, whatever the rounding of their means did to them.
    digits = 12
    found: dict[str, list[float]] = {}
    for mine, theirs, patient_of in zip(arm, other, patients, strict=True):
        for case in sorted(mine.keys() & theirs.keys()):
            found.setdefault(patient_of[case], []).append(mine[case] - theirs[case])
    return {one: round(float(np.mean(found[one])), digits) for one in sorted(found)}


def wilcoxon_p(differences: Sequence[float]) -> float:
    """The two-sided p-value of paired differences; those of zero say nothing and are left out.

    Exact up to 50 differences, of which 12 at most if some are tied; else by the normal
    approximation. 1 without any.
    """
    moved = np.array([one for one in differences if one != 0])
    if len(moved) == 0:
        return 1.0
    tied = len(np.unique(np.abs(moved))) < len(moved)
    if tied and len(moved) <= MOST_TIED:
        every_sign = stats.PermutationMethod(n_resamples=2**MOST_TIED)
        return float(stats.wilcoxon(moved, method=every_sign).pvalue)
    method = "exact" if len(moved) <= 50 and not tied else "asymptotic"
    return float(stats.wilcoxon(moved, method=method).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values corrected for how many there are, in the same order.

    The smallest of m counts m times, the next m - 1 times, ...; none ends below a smaller one's.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return corrected
