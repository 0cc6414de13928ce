"""How a model does on the held-back scans: on the slices that a person painted, nowhere else."""

from collections.abc import Callable, Sequence

import torch
from torch.nn import Module

from client.learning.predict import predict_slice
from common.metrics import StructureScore, mean_per_class, score_labels
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
    """The mean Dice of each of the task's classes over painted slices; its cases and misses."""
    cases = [
        _score_slice(network, annotation, load(annotation.ref.scan_id), plan, device)
        for annotation in annotations
    ]
    name_of = {label.index: label.name for label in plan.labels}
    means = mean_per_class(cases)
    return TaskScore(
        task=task.name,
        dice={name_of[index]: mean for index, mean in means.items()},
        cases=len(cases),
        missed=sum(score.missed for case in cases for score in case.values()),
    )


def _score_slice(
    network: Module,
    annotation: SliceAnnotation,
    scan: Scan,
    plan: FederationPlan,
    device: torch.device,
) -> dict[int, StructureScore]:
    predicted = predict_slice(network, scan, annotation.ref, plan.training, device=device)
    in_plane = [
        mm for axis, mm in enumerate(scan.geometry.spacing_mm) if axis != annotation.ref.axis
    ]
    flat_mm = (in_plane[0], in_plane[1], 1.0)
    return score_labels(
        predicted[..., None], annotation.mask[..., None], annotation.looked_for, flat_mm
    )
