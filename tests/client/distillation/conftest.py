"""Patches of a few voxels in which every label is known, and pairs of them."""

from collections.abc import Callable

import pytest
import torch

from client.distillation.pairs import Pair
from client.learning.batches import Batch
from common.plan import FederationPlan

MakeBatch = Callable[..., Batch]
SIZE = (8, 8, 8)


@pytest.fixture
def make_batch() -> MakeBatch:
    """Patches whose organ, class 1 of 2, is a bright block around a place; all of it known."""

    def make(*corners: tuple[int, int, int]) -> Batch:
        image = torch.zeros(len(corners), 1, *SIZE)
        for row, (i, j, k) in zip(image, corners, strict=True):
            row[0, i : i + 3, j : j + 3, k : k + 3] = 1
        everywhere = torch.ones(len(corners), *SIZE)
        return Batch(
            image=image,
            target=torch.cat([1 - image, image], dim=1),
            weight=everywhere,
            painted=everywhere > 0,
            known=torch.ones(len(corners), 2, *SIZE, dtype=torch.bool),
            replayed=torch.zeros(len(corners), dtype=torch.bool),
        )

    return make


@pytest.fixture
def pair(make_batch: MakeBatch) -> Pair:
    """A block, and one that lies a voxel further along the first axis; all of the way."""
    whole = torch.ones(1)
    return Pair(make_batch((2, 2, 2)), make_batch((3, 2, 2)).image, whole, whole)


@pytest.fixture
def plan() -> FederationPlan:
    """One class, and a student of a few weights with two layers on its way up."""
    size = {"channels": [2, 4, 8], "strides": [2, 2], "residual_units": 0}
    task = {"name": "first", "classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 2}
    values = {
        "name": "tiny",
        "labels": [{"name": "organ", "index": 1}],
        "tasks": [task],
        "segmenter": size,
        "student": size,
        "training": {"patch_size": [8, 8, 8], "batch_size": 2},
        "limits": {"hospitals": 1},
    }
    return FederationPlan.model_validate(values)
