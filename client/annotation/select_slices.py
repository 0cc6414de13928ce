"""Which slice of a scan a clinician is asked to paint.

Most choices work on a hospital's scans together: a network trained on the centre slice of every
scan never sees where an organ ends, one trained on slices spread over the whole extent, empty ones
included, does (docs/benchmarks.md).
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from common.plan import SliceChoice
from common.random_streams import generator
from common.scans import SliceRef

# Steps of this share of the extent, taken round and round, never bunch up: however many have been
# taken, the largest gap between positions is less than 2.7 times the smallest.
GOLDEN_STEP = (5**0.5 - 1) / 2
# How `cohort` learns where slices show something: positions within about this share of the extent
# tell of each other, against one imagined slice at each position that shows something by half.
KERNEL_WIDTH = 0.05
PRIOR_SLICES = 0.25
# Positions that never showed anything are still asked for at this share of the others' rate: empty
# slices teach where an organ ends.
EMPTY_RATE = 0.1
CENTRAL_SHARE = 0.6


class Painted(NamedTuple):
    """A slice painted earlier: its place in its scan, in [0, 1], and whether it shows anything."""

    position: float
    shows: bool


def select_slices(
    image: Float[np.ndarray, "c i j k"],
    ref: tuple[str, int],
    choice: SliceChoice,
    *,
    place: int,
    seed: int,
    painted: Sequence[Painted] = (),
) -> list[SliceRef]:
    """The slices of one scan to paint: one, or all with `every`.

    A scan's slice depends on its place among the scans and on what was painted before, not on what
    comes after: scans may come one at a time, and an interrupted hospital asks the same again.

    Args:
        image: the scan; only `representative` looks at more than its shape.
        ref: scan_id, and the axis: 0 sagittal, 1 coronal, 2 axial.
        choice: `centre`: the middle of the volume; a baseline. `random`: anywhere. `spread`: a
            golden section of the extent on from the scan before, so that the scans together show
            every position evenly at any time. `cohort`: as `spread`, but more densely where painted
            slices showed something. `doubt`: as `cohort`, for scans that no segmenter has looked
            at; the others are for `slice_in_doubt`. `representative`: the slice of the
            scan's middle that looks most like all others, for spreading its label through this one
            scan. `every`: full labels, for comparison.
        place: how many scans came before.
        seed: draws the first position, and the random ones.
        painted: what was painted before, of this hospital's scans; only `cohort` and `doubt` look
            at it.
    """
    scan_id, axis = ref
    depth = image.shape[1 + axis]
    if choice == "every":
        return [SliceRef(scan_id, axis, index) for index in range(depth)]
    if choice == "representative":
        return [SliceRef(scan_id, axis, _most_representative(image, axis))]
    golden = _golden_share(place, seed)
    match choice:
        case "centre":
            position = 0.5
        case "random":
            position = generator(seed, "random position", scan_id).random()
        case "spread":
            position = golden
        case "cohort" | "doubt":
            position = where_slices_show(golden, painted)
    index = min(int(np.floor(position * depth)), depth - 1)
    return [SliceRef(scan_id, axis, index)]


def where_slices_show(share: float, painted: Sequence[Painted]) -> float:
    """The position below which `share` of the asked slices shall lie.

    Their density is the rate at which slices near a position showed something so far, at least
    EMPTY_RATE; without any painted slice it is even and the position is `share` itself.
    """
    below = _asked_below(tuple(painted))
    return float(np.interp(share, below, np.linspace(0, 1, len(below))))


@lru_cache(maxsize=8)  # a page of the worklist asks for many scans with the same slices painted
def _asked_below(painted: tuple[Painted, ...]) -> Float[np.ndarray, "g"]:
    """The share of the asked slices that shall lie below each of evenly spaced positions."""
    grid = (np.arange(200) + 0.5) / 200
    positions = np.array([slice_.position for slice_ in painted])
    shows = np.array([slice_.shows for slice_ in painted], dtype=float)
    kernel = np.exp(-0.5 * ((grid[:, None] - positions) / KERNEL_WIDTH) ** 2)
    rate = (PRIOR_SLICES / 2 + kernel @ shows) / (PRIOR_SLICES + kernel.sum(1))
    density = np.maximum(rate, EMPTY_RATE)
    below: Float[np.ndarray, "g"] = np.concatenate([[0.0], np.cumsum(density)]) / density.sum()
    return below


def slice_in_doubt(
    ref: tuple[str, int], doubt: Sequence[float], *, place: int, seed: int
) -> SliceRef:
    """The slice of one scan to paint where a segmenter has looked at it.

    As by `spread`, a golden section on from the scan before, but in the scan's own doubt instead of
    its extent: slices lie wherever there is doubt, most where it is largest. The slice in most
    doubt of every scan would show the same part of the organ each time.

    Args:
        ref: scan_id, and the axis.
        doubt: voxels in doubt on each slice along the axis; some.
        place: how many scans came before.
        seed: draws the first share.
    """
    below = np.cumsum(doubt) / np.sum(doubt)
    index = int(np.searchsorted(below, _golden_share(place, seed), side="right"))
    return SliceRef(*ref, min(index, len(doubt) - 1))


def _golden_share(place: int, seed: int) -> float:
    return float((generator(seed, "first position").random() + place * GOLDEN_STEP) % 1.0)


def _most_representative(image: Float[np.ndarray, "c i j k"], axis: int) -> int:
    # Only this choice computes with torch, which takes two seconds to load.
    from client.annotation.representative import coverage  # noqa: PLC0415

    stack = np.moveaxis(np.asarray(image), 1 + axis, 1)
    depth = stack.shape[1]
    margin = int((1 - CENTRAL_SHARE) / 2 * depth)
    central = coverage(stack)[margin : depth - margin]
    return margin + int(np.argmax(central))
