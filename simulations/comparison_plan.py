"""The plan by which methods of a comparison learn: no federation, one task, labels 1 to n."""

from collections.abc import Sequence

import numpy as np

from common.plan import FederationPlan
from common.scans import Scan
from simulations.generic import patch_and_strides


def comparison_plan(scans: Sequence[Scan], num_labels: int, seed: int) -> FederationPlan:
    """The networks and training of the generic scenario, on the scans' own grid."""
    shapes = [scan.geometry.shape for scan in scans]
    patch, strides = patch_and_strides(np.median(shapes, axis=0))
    names = [f"label-{index}" for index in range(1, num_labels + 1)]
    labels = [{"name": name, "index": place + 1} for place, name in enumerate(names)]
    values = {
        "name": "cohort-network",
        "seed": seed,
        "labels": labels,
        "tasks": [
            # Neither the modality nor the plane bears on fitting: scans come normalised.
            {"name": "all", "classes": names, "modality": "MR", "plane": "axial", "rounds": 1}
        ],
        "channels": scans[0].image.shape[0],
        "segmenter": {"channels": [16, 32, 64, 128], "strides": strides},
        "student": {"channels": [8, 16, 32], "strides": strides[:2]},
        "training": {"patch_size": patch},
        "limits": {"hospitals": 1},
    }
    return FederationPlan.model_validate(values)
