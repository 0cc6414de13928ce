"""What the model says of a scan: a label and a confidence for every voxel, and how much of each."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8

from client.learning.predict_in_slabs import predict_in_slabs
from client.prediction.model import Model
from common.scans import Scan
from common.settings_file import Settings
from common.window_overlap import WINDOW_OVERLAP

# Whole numbers of these are exact, and pack into a small file; finer ones would mean nothing.
CONFIDENCE_STEPS = 256


class Volume(Settings):
    """How much of a structure was found. `mean_confidence` none: nothing was."""

    index: int
    name: str
    snomed: str | None
    colour: str
    voxels: int
    volume_ml: float
    mean_confidence: float | None


@dataclass(frozen=True)
class Outcome:
    """Both (I, J, K), RAS: the likeliest label index, and its probability."""

    labels: UInt8[np.ndarray, "i j k"]
    confidence: Float[np.ndarray, "i j k"]


def predict(model: Model, scan: Scan) -> Outcome:
    """The likeliest label that the model has learned, for every voxel."""
    plan = model.record.plan
    labels = np.empty(scan.geometry.shape, dtype=np.uint8)
    confidence = np.empty(scan.geometry.shape, dtype=np.float32)
    slabs = predict_in_slabs(
        model.network,
        scan,
        plan,
        overlap=WINDOW_OVERLAP[model.role],
        device=model.device,
    )
    for slab in slabs:
        best, likeliest = slab.probabilities.max(dim=0)
        slices = slice(slab.first, slab.first + best.shape[slab.axis])
        where = tuple(slices if axis == slab.axis else slice(None) for axis in range(3))
        labels[where] = likeliest.numpy()
        confidence[where] = torch.round(best * CONFIDENCE_STEPS).numpy() / CONFIDENCE_STEPS
    return Outcome(labels, confidence)


def measure_volumes(model: Model, scan: Scan, outcome: Outcome) -> tuple[Volume, ...]:
    """One for each label that the model has learned, whether it was found or not."""
    affine = np.asarray(scan.geometry.affine)
    voxel_ml = abs(float(np.linalg.det(affine[:3, :3]))) / 1000
    volumes = []
    for label in model.labels:
        found = outcome.labels == label.index
        voxels = int(found.sum())
        mean = round(float(outcome.confidence[found].mean()), 3) if voxels else None
        volumes.append(
            Volume(
                **label.model_dump(),
                voxels=voxels,
                volume_ml=round(voxels * voxel_ml, 4),
                mean_confidence=mean,
            )
        )
    return tuple(volumes)
