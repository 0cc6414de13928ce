"""Which scans of earlier tasks a hospital keeps to replay: a class-balanced reservoir.

After Chrysakis and Moens, "Online continual learning from imbalanced data" (ICML 2020), with scans
for items: while there is room every scan is kept; then a scan of a group that is not the largest
takes the place of one of the largest group, and within the largest each has the same chance to
stay. A group is a task and the rarest structure painted on the scan's slice.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from client.store.rounds import Memory, Remembered


def offer(
    memory: Memory, newcomers: Sequence[Remembered], *, budget: int, rng: np.random.Generator
) -> Memory:
    """The memory after each newcomer had its chance; a scan has one chance only."""
    for newcomer in newcomers:
        if newcomer.scan_id not in memory.offered:
            memory = _offer_one(memory, newcomer, budget, rng)
    return memory


def _offer_one(
    memory: Memory, newcomer: Remembered, budget: int, rng: np.random.Generator
) -> Memory:
    seen = dict(memory.seen)
    seen[newcomer.group] = seen.get(newcomer.group, 0) + 1
    offered = memory.offered | {newcomer.scan_id}
    entries = list(memory.entries)
    if len(entries) < budget:
        return Memory((*entries, newcomer), seen, offered)
    sizes = Counter(entry.group for entry in entries)
    largest = max(sizes.values(), default=0)
    if largest == 0:
        return Memory((), seen, offered)
    if sizes[newcomer.group] < largest:
        candidates = [i for i, entry in enumerate(entries) if sizes[entry.group] == largest]
    elif rng.random() < sizes[newcomer.group] / seen[newcomer.group]:
        candidates = [i for i, entry in enumerate(entries) if entry.group == newcomer.group]
    else:
        return Memory(tuple(entries), seen, offered)
    del entries[candidates[int(rng.integers(len(candidates)))]]
    return Memory((*entries, newcomer), seen, offered)


def group_of(task: str, voxels_per_class: Mapping[int, int]) -> str:
    """The group of a scan from the area of each class on its painted slice."""
    painted = {index: area for index, area in voxels_per_class.items() if area > 0}
    rarest = min(painted, key=lambda index: (painted[index], index)) if painted else 0
    return f"{task}/{rarest}"
