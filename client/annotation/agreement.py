"""How far two people who painted one slice agree."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from common.metrics import dice
from common.scans import SliceAnnotation


@dataclass(frozen=True)
class Agreement:
    """Dice of each class between two annotators; None where neither painted it.

    `mean` is over the classes that one of them painted at least; None if neither painted anything.
    """

    one: str
    other: str
    dice: dict[int, float | None]
    mean: float | None


def agreements(versions: Sequence[SliceAnnotation], classes: Sequence[int]) -> list[Agreement]:
    """Of each pair of annotators, between the newest version of each; versions oldest first."""
    newest = {version.annotator: version.mask for version in versions}
    found = []
    for one, other in combinations(sorted(newest), 2):
        overlaps = {index: dice(newest[one] == index, newest[other] == index) for index in classes}
        scored = [value for value in overlaps.values() if value is not None]
        mean = sum(scored) / len(scored) if scored else None
        found.append(Agreement(one, other, overlaps, mean))
    return found
