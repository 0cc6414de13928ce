"""The values of a small plan, as they are read from a file."""

from typing import Any

import pytest

from common.plan import FederationPlan

Values = dict[str, Any]


@pytest.fixture
def plan_values() -> Values:
    """Two labels, three stages of 2, 1 and 3 rounds, networks of a few weights."""
    return {
        "name": "small",
        "labels": [{"name": "organ", "index": 1}, {"name": "left lobe", "index": 2}],
        "tasks": [
            {
                "name": name,
                "classes": classes,
                "modality": "MR",
                "plane": "axial",
                "rounds": rounds,
            }
            for name, classes, rounds in (
                ("first", ["organ"], 2),
                ("second", ["left lobe"], 1),
                ("third", ["left lobe", "organ"], 3),
            )
        ],
        "segmenter": {"channels": [4, 8], "strides": [2]},
        "student": {"channels": [2, 4], "strides": [2]},
        "training": {"patch_size": [8, 8, 8]},
        "limits": {"hospitals": 3},
    }


@pytest.fixture
def plan(plan_values: Values) -> FederationPlan:
    """The plan of these values."""
    return FederationPlan.model_validate(plan_values)
