"""How well a guide knows: its residual against the truth, expected gains against actual ones."""

from collections.abc import Sequence
from statistics import mean

import numpy as np
import torch
from jaxtyping import UInt8
from scipy import stats
from torch.nn import Module

from client.learning.predict import predict_probabilities
from client.propagation.fuse import fuse
from client.propagation.residual import Suggestion
from client.store.scans import load_scan, read_reference
from common.metrics import dice
from common.scans import SliceRef
from simulations.interactive_guides import Looked
from simulations.interactive_pool import Pool, annotations_of, by_scan, label_map

Labels = UInt8[np.ndarray, "i j k"]


def realised_gains(
    pool: Pool,
    refs: Sequence[SliceRef],
    suggestions: Sequence[Suggestion],
    network: Module,
    device: torch.device,
) -> list[float]:
    """By how much the Dice of each scan's labels rises once its suggested slice is painted too.

    The labels are those of the painted slices times the network, which does not learn in between.
    """
    painted = by_scan(refs)
    gains = []
    for suggestion in suggestions:
        scan_id, index = suggestion.ref.scan_id, suggestion.ref.index
        before = painted[scan_id]
        after = tuple(sorted((*before, index)))
        predicted = predict_probabilities(
            network, load_scan(pool.store, scan_id), pool.plan.training, device=device
        ).numpy()
        truth = read_reference(pool.store, scan_id, pool.plan)
        reached = []
        for indexes in (before, after):
            spread = label_map(pool, scan_id, indexes, device)
            fused = fuse(
                spread, annotations_of(pool, scan_id, indexes), predicted, pool.plan.propagation
            )
            reached.append(mean_dice(fused.hard(), truth))
        gains.append(reached[1] - reached[0])
    return gains


def correlation(looked: Sequence[Looked]) -> float | None:
    """Spearman's, over all slices, between the residual and the network's wrong voxels.

    None where either is the same on all slices.
    """
    residual = np.concatenate([one.residual for one in looked])
    wrong = np.concatenate([one.wrong_voxels for one in looked])
    if residual.min() == residual.max() or wrong.min() == wrong.max():
        return None
    return float(stats.spearmanr(residual, wrong).statistic)


def mean_dice(found: Labels, truth: Labels) -> float:
    """The mean over the structures that are found or true; 1 where there is neither."""
    structures = (set(np.unique(found).tolist()) | set(np.unique(truth).tolist())) - {0}
    scores = [dice(found == index, truth == index) for index in sorted(structures)]
    return mean(score for score in scores if score is not None) if scores else 1.0
