"""The scans of a hospital of which most is known: where synthesis takes its structures from."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from client.learning.examples import Example
from common.scans import LabelMap

# How far beside what is known a structure's image goes along with it.
BESIDE_VOXELS = 2


@dataclass(frozen=True)
class Exemplar:
    """A well-labelled scan.

    Attributes:
        known: the scan with its labels and their weights.
        structures: the label indexes of which something is known.
        shape: the same scan, with weight 1 where structures are cut out and 0 elsewhere: where they
            are known, and where their labels go on next to that. What is cut out without being
            known stays unknown.
    """

    known: Example
    structures: tuple[int, ...]
    shape: Example


def choose_exemplars(examples: Iterable[Example], number: int) -> tuple[Exemplar, ...]:
    """The `number` examples that know most of their structures, best first.

    A structure's known volume counts as a share of its largest in any example, so that a small
    structure counts as much as a large one. Examples that know of none are no exemplars; those that
    know the same come in the order of their scan_id.
    """
    known = {one.scan.scan_id: (one, known_volumes(one.labels)) for one in examples}
    largest: dict[int, float] = {}
    for _, volumes in known.values():
        for index, volume in volumes.items():
            largest[index] = max(volume, largest.get(index, 0.0))

    def score(scan_id: str) -> float:
        return sum(v / largest[index] for index, v in known[scan_id][1].items() if v > 0)

    ranked = sorted(known, key=lambda scan_id: (-score(scan_id), scan_id))
    best = [name for name in ranked[:number] if score(name) > 0]
    return tuple(_cut_out(*known[name]) for name in best)


def known_volumes(labels: LabelMap) -> dict[int, float]:
    """Voxels of each structure by label index, each counted as weight times probability."""
    weight = np.asarray(labels.weight, dtype=np.float32)
    return {
        index: float((np.asarray(soft, dtype=np.float32) * weight).sum())
        for index, soft in zip(labels.classes, labels.soft[1:], strict=True)
    }


def _cut_out(example: Example, volumes: dict[int, float]) -> Exemplar:
    labels = example.labels
    structure = np.asarray(labels.soft[0]) < 0.5
    near = _grow(structure & (np.asarray(labels.weight) > 0))
    weight: Float[np.ndarray, "i j k"] = (structure & near).astype(np.float32)
    shape = replace(example, labels=replace(labels, weight=weight))
    return Exemplar(example, tuple(index for index in volumes if volumes[index] > 0), shape)


def _grow(mask: Bool[np.ndarray, "i j k"]) -> Bool[np.ndarray, "i j k"]:
    neighbours = ndimage.generate_binary_structure(3, 1)
    grown: Bool[np.ndarray, "i j k"] = ndimage.binary_dilation(mask, neighbours, BESIDE_VOXELS)
    return grown
