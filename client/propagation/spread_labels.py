"""Turns the painted slices of a scan into one LabelMap with a weight per voxel."""

from collections.abc import Sequence

import numpy as np
import torch

from client.propagation.soft_affinity import carry
from common.plan import Propagation
from common.scans import LabelMap, Scan, SliceAnnotation


def spread_labels(
    scan: Scan,
    annotations: Sequence[SliceAnnotation],
    settings: Propagation,
    *,
    device: torch.device,
) -> LabelMap:
    """The label map of one scan from its painted slices (at least one).

    Painted slices are exact and weigh 1. A slice at distance d within `reach_slices` weighs
    `weight_per_slice`^d times the agreement along the way; further out the weight is 0. A slice
    painted empty says nothing about its neighbours. A class that is painted on some slices only is
    unknown away from them.
    """
    classes = tuple(sorted({index for a in annotations for index in a.looked_for}))
    shape = scan.geometry.shape
    total = np.zeros((1 + len(classes), *shape), dtype=np.float32)
    weight = np.zeros(shape, dtype=np.float32)
    for annotation in annotations:
        soft, trust, within_reach = _spread_one(scan, annotation, classes, settings, device)
        # The floor keeps the far shape of the organ, which weighs nothing but can be looked at.
        total += soft * np.maximum(trust, 1e-6)
        weight = np.maximum(weight, trust * within_reach)
    soft = total / total.sum(0)
    expert = np.zeros(shape, dtype=bool)
    for annotation in annotations:
        where = annotation.ref.selection
        soft[:, *where] = _one_hot(annotation.mask, classes)
        weight[where] = 1
        expert[where] = True
    present = [set(np.unique(a.mask).tolist()) - {0} for a in annotations if a.mask.any()]
    spread = tuple(sorted(set.intersection(*present))) if present else ()
    return LabelMap(classes, soft, weight, expert, spread, "propagated")


def _spread_one(
    scan: Scan,
    annotation: SliceAnnotation,
    classes: tuple[int, ...],
    settings: Propagation,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One painted slice carried through the scan.

    Returns:
        Probabilities (N, I, J, K); trust and whether it is within reach, both lined up to
        broadcast against (I, J, K).
    """
    axis, start = annotation.ref.axis, annotation.ref.index
    stack = np.moveaxis(np.asarray(scan.image), 1 + axis, 1)
    painted = torch.from_numpy(_one_hot(annotation.mask, classes)).to(device)
    carried = carry(torch.from_numpy(np.array(stack)).to(device), painted, start, settings)
    distance = torch.arange(stack.shape[1], device=device).sub(start).abs()
    trust = settings.weight_per_slice**distance * carried.agreement
    within_reach = (distance <= settings.reach_slices) & (painted[1:].sum() > 0)
    along = [1, 1, 1]
    along[axis] = -1
    return (
        np.moveaxis(carried.soft.cpu().numpy(), 1, 1 + axis),
        trust.cpu().numpy().reshape(along),
        within_reach.cpu().numpy().reshape(along),
    )


def _one_hot(mask: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """(rows, columns) label indexes to (1 + len(classes), rows, columns) probabilities."""
    foreground = np.stack([mask == index for index in classes]).astype(np.float32)
    return np.concatenate([1 - foreground.sum(0, keepdims=True), foreground])
