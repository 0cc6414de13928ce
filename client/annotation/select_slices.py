"""Which slice of each scan a clinician is asked to paint.

The choice works on a hospital's scans together: a network trained on the centre slice of every scan
never sees where an organ ends, one trained on slices spread over the whole extent, empty ones
included, does (docs/benchmarks.md).
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from common.random_streams import generator
from common.scans import SliceRef

SliceChoice = Literal["centre", "random", "spread"]

# Steps of this share of the extent, taken round and round, never bunch up: however many have been
# taken, the largest gap between positions is less than 2.7 times the smallest.
GOLDEN_STEP = (5**0.5 - 1) / 2


def select_slices(
    scans: Sequence[tuple[str, tuple[int, int, int]]],
    axis: int,
    choice: SliceChoice,
    seed: int,
) -> list[SliceRef]:
    """One slice per scan, in the order of `scans`.

    A scan's slice depends on its place among `scans` and not on those after it, so scans may come
    one at a time, and a hospital that was interrupted asks for the same slices again.

    Args:
        scans: scan_id and shape (I, J, K) of each scan, in the order in which they came.
        axis: 0 sagittal, 1 coronal, 2 axial.
        choice: `centre`: the middle of each volume; only as a baseline. `random`: anywhere.
            `spread`: each scan goes on by a golden section of the extent from the one before, so
            that the scans together show every position evenly at any time.
        seed: draws the first position, and the random ones.
    """
    refs = []
    start = generator(seed, "first position").random()
    for place, (scan_id, shape) in enumerate(scans):
        if choice == "centre":
            position = 0.5
        elif choice == "random":
            position = generator(seed, "random position", scan_id).random()
        else:
            position = (start + place * GOLDEN_STEP) % 1.0
        index = min(int(np.floor(position * shape[axis])), shape[axis] - 1)
        refs.append(SliceRef(scan_id, axis, index))
    return refs
