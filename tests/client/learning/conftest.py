"""Scans of a few voxels with labels, and changes by hand."""

from collections.abc import Callable

import numpy as np
import pytest

from client.learning.augmentation import Change
from client.learning.examples import Example
from common.scans import Geometry, LabelMap, Scan

MakeExample = Callable[..., Example]
MakeChange = Callable[..., Change]


@pytest.fixture
def make_change() -> MakeChange:
    """The change that changes nothing, but for what is named."""

    def make(**changes: object) -> Change:
        still = {
            "degrees": (0.0, 0.0, 0.0),
            "scales": (1.0, 1.0, 1.0),
            "gamma": 1.0,
            "gain": 1.0,
            "noise": 0.0,
            "noise_seed": 0,
        }
        return Change(**{**still, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def make_example() -> MakeExample:
    """A scan whose voxels are its labels, known everywhere unless a weight is given."""

    def make(
        hard: np.ndarray,
        *,
        classes: tuple[int, ...] = (1,),
        weight: np.ndarray | None = None,
        expert: np.ndarray | None = None,
        spread: tuple[int, ...] | None = None,
        spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0),
        num_classes: int | None = None,
    ) -> Example:
        i, j, k = hard.shape
        affine = np.diag([*spacing_mm, 1.0])
        geometry = Geometry((i, j, k), tuple(tuple(row) for row in affine.tolist()))
        labels = LabelMap(
            classes=classes,
            soft=np.stack([hard == index for index in (0, *classes)]).astype(np.float32),
            weight=np.ones(hard.shape, dtype=np.float32) if weight is None else weight,
            expert=np.zeros(hard.shape, dtype=bool) if expert is None else expert,
            spread=classes if spread is None else spread,
            source="propagated",
        )
        scan = Scan("scan", hard[None].astype(np.float32), geometry, "MR")
        return Example(scan, labels, num_classes or 1 + max(classes))

    return make
