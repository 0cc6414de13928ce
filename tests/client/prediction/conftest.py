"""A model that says exactly what the voxels are: -100 HU background, 0 label 1, 100 label 2."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Module

from client.prediction.model import Model
from common.plan import FederationPlan
from common.released_models import ReleaseRecord

MakeModel = Callable[..., Model]
TASK = {"plane": "axial", "rounds": 2}
CT = {**TASK, "modality": "CT", "window_hu": [-100, 100]}


class NearestValue(Module):
    """Labels 0, 1 and 2 are -1, 0 and 1 in the normalised scan."""

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, 3, I, J, K)."""
        return torch.cat([-40 * (image - value) ** 2 for value in (-1.0, 0.0, 1.0)], dim=1)


@pytest.fixture
def make_model() -> MakeModel:
    """A model of round `number`; `changes` go into its plan."""

    def make(number: int = 4, role: str = "student", **changes: Any) -> Model:
        size = {"channels": [4, 8], "strides": [2]}
        values = {
            "name": "tiny",
            "labels": [
                {"name": "liver", "index": 1, "snomed": "10200004", "colour": "#1b9e77"},
                {"name": "lesion", "index": 2},
            ],
            "tasks": [
                {"name": "first", "classes": ["liver"], **CT},
                {"name": "second", "classes": ["lesion"], **CT},
            ],
            "segmenter": size,
            "student": size,
            "training": {"patch_size": [8, 8, 8], "batch_size": 2},
            "limits": {"hospitals": 1},
        }
        plan = FederationPlan.model_validate({**values, **changes})
        record = ReleaseRecord(
            federation=plan.federation,
            round=number,
            plan=plan,
            models_sha256="ab" * 32,
            software="0.1.0",
        )
        return Model(role, record, NearestValue(), torch.device("cpu"))  # type: ignore[arg-type]

    return make
