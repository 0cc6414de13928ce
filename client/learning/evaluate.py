"""How a model does on the held-back scans: on the slices that a person painted, nowhere else."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import Module

from client.learning.predict import predict_slice
from common.plan import FederationPlan, Task
from common.scans import Scan, SliceAnnotation
from common.updates import TaskScore


def score_painted_slices(
    network: Module,
    annotations: Sequence[SliceAnnotation],
    load: Callable[[str], Scan],
    plan: FederationPlan,
    task: Task,
    *,
    device: torch.device,
) -> TaskScore:
    """The Dice of each of the task's classes, pooled over all painted slices together.

    Pooled, because slices lie anywhere along an organ: a mean over slices would count its tip, a
    few pixels, as much as its middle. A slice says nothing of classes that nobody looked for on it.
    A class that is painted on none of them is left out: a stray voxel of it would be a Dice of 0,
    and weigh as much as all that was painted. `missed` counts the structures on single slices that
    were painted and not found at all.
    """
    classes = plan.class_indexes(task)
    overlap = np.zeros(len(classes), dtype=int)
    areas = np.zeros((2, len(classes)), dtype=int)  # found, painted
    missed = 0
    for annotation in annotations:
        scan = load(annotation.ref.scan_id)
        predicted = predict_slice(network, scan, annotation.ref, plan.training, device=device)
        for place, index in enumerate(classes):
            if index not in annotation.looked_for:
                continue
            found, painted = predicted == index, annotation.mask == index
            overlap[place] += int((found & painted).sum())
            areas[:, place] += int(found.sum()), int(painted.sum())
            missed += bool(painted.any() and not found.any())
    name_of = {label.index: label.name for label in plan.labels}
    dice = {
        name_of[index]: float(2 * overlap[place] / areas[:, place].sum())
        for place, index in enumerate(classes)
        if areas[1, place] > 0
    }
    return TaskScore(task=task.name, dice=dice, cases=len(annotations), missed=missed)
