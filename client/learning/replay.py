"""Which scans of earlier tasks a hospital keeps to replay: a budget, and three policies.

Every scan is offered once, when it trains for the first time, and comes in if it fits the budget by
itself. While the memory holds too much, the policy names the one that goes; who is gone does not
come back.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from client.store.rounds import Memory, Remembered

# The place of the one that goes, among those that are too many; the last one has just come. The
# second argument counts what was ever offered of each group.
WhoGoes = Callable[[Sequence[Remembered], Mapping[str, int]], int]


@dataclass(frozen=True)
class Budget:
    """How much may be kept: so many scans and, if it is set, so many bytes of their arrays.

    `bytes_of` gives the size of each scan by its id; without a limit of bytes nobody asks.
    """

    scans: int
    num_bytes: float | None = None
    bytes_of: Mapping[str, int] = field(default_factory=dict)

    def holds(self, entries: Sequence[Remembered]) -> bool:
        """Whether there is room for all of them."""
        if len(entries) > self.scans:
            return False
        if self.num_bytes is None:
            return True
        return sum(self.bytes_of[entry.scan_id] for entry in entries) <= self.num_bytes


def offer(
    memory: Memory, newcomers: Sequence[Remembered], *, budget: Budget, policy: WhoGoes
) -> Memory:
    """The memory, within its budget, after each newcomer had its chance; a scan has one only."""
    memory = _cut(memory, budget, policy)
    for newcomer in newcomers:
        if newcomer.scan_id in memory.offered:
            continue
        seen = {**memory.seen, newcomer.group: memory.seen.get(newcomer.group, 0) + 1}
        come = (newcomer,) if budget.holds((newcomer,)) else ()
        offered = memory.offered | {newcomer.scan_id}
        memory = _cut(Memory((*memory.entries, *come), seen, offered), budget, policy)
    return memory


def _cut(memory: Memory, budget: Budget, policy: WhoGoes) -> Memory:
    entries = list(memory.entries)
    while not budget.holds(entries):
        del entries[policy(entries, memory.seen)]
    return replace(memory, entries=tuple(entries))


def reservoir(lots: Mapping[str, float]) -> WhoGoes:
    """Each scan has the same chance to stay: of all that were ever offered, the highest lots stay.

    The same sample as Vitter's reservoir ("Random sampling with a reservoir", 1985), here by lots
    that depend on nothing but the scan: whoever offers in another order, or in other rounds, keeps
    the same. With a limit of bytes a large scan has less chance than a small one.
    """

    def who_goes(entries: Sequence[Remembered], _: Mapping[str, int]) -> int:
        return min(range(len(entries)), key=lambda place: lots[entries[place].scan_id])

    return who_goes


def balanced(rng: np.random.Generator) -> WhoGoes:
    """A class-balanced reservoir: groups share the memory, scans of one group have the same chance.

    After Chrysakis and Moens, "Online continual learning from imbalanced data" (ICML 2020), with
    scans for items: a scan of a group that is not the largest takes the place of one of the largest
    group. A group is a task and the rarest structure painted on the scan's slice.
    """

    def who_goes(entries: Sequence[Remembered], seen: Mapping[str, int]) -> int:
        before, group = entries[:-1], entries[-1].group
        sizes = Counter(entry.group for entry in before)
        largest = max(sizes.values(), default=0)
        if sizes[group] < largest:
            candidates = [i for i, entry in enumerate(before) if sizes[entry.group] == largest]
        elif rng.random() < sizes[group] / seen[group]:
            candidates = [i for i, entry in enumerate(before) if entry.group == group]
        else:
            return len(before)
        return candidates[int(rng.integers(len(candidates)))]

    return who_goes


def hard(hardness: Mapping[str, float]) -> WhoGoes:
    """Tasks share the memory, and of each the scans stay that a segmenter does worst on.

    Of the task that holds most, the easiest scan goes. Not the easiest of all: to a segmenter that
    has never seen a task all its scans are hard, and they would drive out everything before them.

    Args:
        hardness: of each scan, as one and the same segmenter found it.
    """

    def who_goes(entries: Sequence[Remembered], _: Mapping[str, int]) -> int:
        sizes = Counter(entry.task for entry in entries)
        largest = max(sizes.values())
        places = [place for place, one in enumerate(entries) if sizes[one.task] == largest]
        return min(places, key=lambda place: hardness[entries[place].scan_id])

    return who_goes


def group_of(task: str, voxels_per_class: Mapping[int, int]) -> str:
    """The group of a scan from the area of each class on its painted slice."""
    painted = {index: area for index, area in voxels_per_class.items() if area > 0}
    rarest = min(painted, key=lambda index: (painted[index], index)) if painted else 0
    return f"{task}/{rarest}"
