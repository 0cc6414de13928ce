"""Scores a model on scans with full labels, on each scan's own grid."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from client.learning.device import choose_device
from client.learning.predict import predict_labels
from client.store.scans import CatalogScan, load_scan, read_reference
from client.store.store import Store
from common.metrics import StructureScore, mean_per_class, score_labels
from common.networks.unet import build_networks, count_parameters, load_arrays
from common.plan import FederationPlan
from common.updates import Arrays
from server.report import ModelScores

VOXEL_UNITS = (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class TrainedModel:
    """One of a run's models: its role in the plan, and the weights of all roles.

    Of classes that no task has taught up to the round (none: the plan's last) it knows nothing.
    """

    plan: FederationPlan
    arrays: Arrays
    role: str
    round_number: int | None = None


@dataclass(frozen=True)
class CaseScores:
    """The scores of one scan, by label index."""

    case: str
    scan_id: str
    structures: dict[int, StructureScore]

    def mean_dice(self, classes: Iterable[int]) -> float | None:
        """Mean over those of `classes` that were scored; None if none was."""
        values = [self.structures[index].dice for index in classes if index in self.structures]
        return float(np.mean(values)) if values else None


def score_scans(
    store: Store,
    scans: Sequence[CatalogScan],
    model: TrainedModel,
    *,
    in_voxels: bool = False,
    on_scan: Callable[[str], None] | None = None,
) -> list[CaseScores]:
    """Predicts and scores every scan; all have full labels.

    `in_voxels` gives distances in voxels, for headers whose spacing is a placeholder.
    """
    plan, device = model.plan, choose_device("auto")
    network = build_networks(plan, model.round_number)[model.role]
    load_arrays(network, model.arrays, model.role)
    results = []
    for row in scans:
        scan = load_scan(store, row.scan_id)
        predicted = predict_labels(network, scan, plan.training, device=device)
        truth = read_reference(store, row.scan_id, plan)
        spacing = VOXEL_UNITS if in_voxels else scan.geometry.spacing_mm
        classes = [label.index for label in plan.labels]
        structures = score_labels(predicted, truth, classes, spacing)
        results.append(CaseScores(row.case, row.scan_id, structures))
        if on_scan is not None:
            on_scan(row.case)
    return results


def summarise(
    cases: Sequence[CaseScores], model: TrainedModel, *, in_voxels: bool = False
) -> ModelScores:
    """The report's section for one model; the mean Dice is the mean over classes."""
    name_of = {label.index: label.name for label in model.plan.labels}
    means = mean_per_class([case.structures for case in cases])
    scores = [score for case in cases for score in case.structures.values()]
    distances = [score.hd95_mm for score in scores if score.hd95_mm is not None]
    hd95 = float(np.mean(distances)) if distances else None
    return ModelScores(
        dice={name_of[index]: mean for index, mean in means.items()},
        mean_dice=float(np.mean(list(means.values()))) if means else None,
        hd95_mm=None if in_voxels else hd95,
        hd95_voxels=hd95 if in_voxels else None,
        missed=sum(score.missed for score in scores),
        cases=len(cases),
        parameters=count_parameters(model.arrays, model.role),
    )
