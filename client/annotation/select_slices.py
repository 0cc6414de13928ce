"""Which slice of each scan a clinician is asked to paint.

The choice works on a hospital's scans together: a network trained on the centre slice of every scan
never sees where an organ ends (mean Dice 0.19), one trained on slices spread over the whole extent,
empty ones included, does (0.83; docs/benchmarks.md).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.scans import SliceRef

SliceChoice = Literal["centre", "random", "spread"]


def select_slices(
    scans: Sequence[tuple[str, tuple[int, int, int]]],
    axis: int,
    choice: SliceChoice,
    rng: np.random.Generator,
) -> list[SliceRef]:
    """One slice per scan, in the order of `scans`.

    Args:
        scans: scan_id and shape (I, J, K) of each scan.
        axis: 0 sagittal, 1 coronal, 2 axial.
        choice: `centre`: the middle of each volume; only as a baseline. `random`: anywhere.
            `spread`: the extent is cut into as many equal parts as there are scans and each scan
            gets one part, so that the hospital's scans together show every position.
        rng: draws the positions.
    """
    lengths = np.array([shape[axis] for _, shape in scans], dtype=float)
    positions = _positions(len(scans), choice, rng)
    indexes = np.minimum(np.floor(positions * lengths), lengths - 1).astype(int)
    return [
        SliceRef(scan_id, axis, int(index))
        for (scan_id, _), index in zip(scans, indexes, strict=True)
    ]


def _positions(
    count: int, choice: SliceChoice, rng: np.random.Generator
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Where along the extent, in [0, 1), each scan's slice lies."""
    if choice == "centre":
        return np.full(count, 0.5)
    if choice == "random":
        return rng.random(count)
    return (rng.permutation(count) + rng.random(count)) / max(count, 1)
