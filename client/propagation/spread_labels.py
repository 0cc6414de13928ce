"""Turns the painted slices of a scan into one LabelMap with a weight per voxel."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from client.propagation.combine import carry_by_all
from client.propagation.slice_distance import along, distance_slices
from common.networks.correspondence import CorrespondenceNetwork
from common.plan import Propagation
from common.scans import LabelMap, Scan, SliceAnnotation

log = logging.getLogger(__name__)

FEWEST_SLICES = 3


def spread_labels(
    scan: Scan,
    annotations: Sequence[SliceAnnotation],
    settings: Propagation,
    network: CorrespondenceNetwork | None = None,
    *,
    device: torch.device,
) -> LabelMap:
    """The label map of one scan from its painted slices (at least one).

    `network` is the correspondence network, needed where the settings name it as a candidate.

    Painted slices are exact and weigh 1. A slice at distance d within `reach_slices` weighs
    `weight_per_slice`^d times the agreement along the way; further out the weight is 0. A slice
    painted empty says nothing about its neighbours, but what others carry towards it ends there: a
    class does not come back beyond a slice on which somebody looked for it in vain. A class that is
    painted on some slices only is unknown away from them. Where a slice was not looked at for all
    classes, what was painted on it counts, and the rest of it is unknown.
    """
    classes = tuple(sorted({index for a in annotations for index in a.looked_for}))
    shape = scan.geometry.shape
    weight = np.zeros(shape, dtype=np.float32)
    carried = []
    for annotation in _to_spread(scan, annotations, classes):
        soft, trust, within_reach = _spread_one(
            scan, annotation, classes, settings, network, device
        )
        trust = _end_where_others_show_none(soft, trust, classes, annotation, annotations)
        carried.append((soft, trust))
        np.maximum(weight, trust * within_reach, out=weight)
    soft = _blend(carried) if carried else _all_background(len(classes), shape)
    return _with_painted(soft, weight, classes, annotations)


def _blend(
    carried: Sequence[tuple[Float[np.ndarray, "n i j k"], Float[np.ndarray, "#i #j #k"]]],
) -> Float[np.ndarray, "n i j k"]:
    """The mean of what each painted slice says, weighed by its trust.

    In place in the first one, slice by slice: of a large volume there is no room for copies, and
    most of what they would hold is background.
    """
    (blended, _), others = carried[0], carried[1:]
    if not others:
        return blended
    # The floor keeps the far shape of the organ, which weighs nothing but can be looked at.
    shares = [np.broadcast_to(np.maximum(t, 1e-6), blended.shape[1:]) for _, t in carried]
    for place in range(blended.shape[1]):
        total = blended[:, place] * shares[0][place]
        for (soft, _), share in zip(others, shares[1:], strict=True):
            total += soft[:, place] * share[place]
        blended[:, place] = total / total.sum(0)
    return blended


def _all_background(num_classes: int, shape: tuple[int, int, int]) -> Float[np.ndarray, "n i j k"]:
    soft = np.zeros((1 + num_classes, *shape), dtype=np.float32)
    soft[0] = 1
    return soft


def painted_labels(shape: tuple[int, int, int], annotations: Sequence[SliceAnnotation]) -> LabelMap:
    """The painted slices of a scan alone: everywhere else nothing is known."""
    classes = tuple(sorted({index for a in annotations for index in a.looked_for}))
    soft = _all_background(len(classes), shape)
    return _with_painted(soft, np.zeros(shape, dtype=np.float32), classes, annotations)


def _with_painted(
    soft: Float[np.ndarray, "n i j k"],
    weight: Float[np.ndarray, "i j k"],
    classes: tuple[int, ...],
    annotations: Sequence[SliceAnnotation],
) -> LabelMap:
    """The label map with the painted slices exact."""
    expert = np.zeros(weight.shape, dtype=bool)
    for annotation in annotations:
        where = annotation.ref.selection
        known = (annotation.mask > 0) | (set(annotation.looked_for) >= set(classes))
        painted = _one_hot(annotation.mask, classes)
        soft[:, *where] = np.where(known, painted, soft[:, *where])
        weight[where] = known
        expert[where] = known
    present = [set(np.unique(a.mask).tolist()) - {0} for a in annotations if a.mask.any()]
    spread = tuple(sorted(set.intersection(*present))) if present else ()
    return LabelMap(classes, soft, weight, expert, spread, "propagated")


def is_too_short(shape: tuple[int, int, int], annotations: Sequence[SliceAnnotation]) -> bool:
    """Whether a stack has too few neighbours to follow anything, and is used as it was painted."""
    return shape[annotations[0].ref.axis] < FEWEST_SLICES


def _to_spread(
    scan: Scan, annotations: Sequence[SliceAnnotation], classes: tuple[int, ...]
) -> list[SliceAnnotation]:
    """The painted slices that can say something about others.

    With every slice of the scan painted none is left to spread to.
    """
    depth = scan.geometry.shape[annotations[0].ref.axis]
    if is_too_short(scan.geometry.shape, annotations):
        log.warning(
            "scan %s has %d slices along the plane, expected at least %d: only its painted slices "
            "are used",
            scan.scan_id,
            depth,
            FEWEST_SLICES,
        )
        return []
    if len(annotations) == depth:
        return []
    return [one for one in annotations if set(one.looked_for) >= set(classes)]


def _end_where_others_show_none(
    soft: Float[np.ndarray, "n i j k"],
    trust: Float[np.ndarray, "#i #j #k"],
    classes: tuple[int, ...],
    annotation: SliceAnnotation,
    annotations: Sequence[SliceAnnotation],
) -> Float[np.ndarray, "#i #j #k"]:
    """Ends, in `soft`, what was carried beyond slices that show none of it; what trust is left."""
    axis, start = annotation.ref.axis, annotation.ref.index
    there = np.ones((len(classes), soft.shape[1 + axis]), dtype=bool)
    for other in annotations:
        if other.ref.axis != axis or other.ref.index == start:
            continue
        end = other.ref.index
        beyond = slice(end, None) if end > start else slice(end + 1)
        there[np.isin(classes, other.looked_for) & ~np.isin(classes, other.mask), beyond] = False
    slices = np.moveaxis(soft, 1 + axis, 1)
    for place in np.flatnonzero(~there.all(0)):
        slices[1:, place] *= there[:, place, None, None]
        slices[0, place] = 1 - slices[1:, place].sum(0)
    shown = np.asarray(there[np.isin(classes, annotation.mask)].any(0))
    left: Float[np.ndarray, "#i #j #k"] = trust * along(axis, shown)
    return left


def _spread_one(
    scan: Scan,
    annotation: SliceAnnotation,
    classes: tuple[int, ...],
    settings: Propagation,
    network: CorrespondenceNetwork | None,
    device: torch.device,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One painted slice carried through the scan.

    Returns:
        Probabilities (N, I, J, K); trust and whether it is within reach, both lined up to
        broadcast against (I, J, K).
    """
    axis, start = annotation.ref.axis, annotation.ref.index
    stack = torch.from_numpy(np.array(np.moveaxis(np.asarray(scan.image), 1 + axis, 1)))
    painted = torch.from_numpy(_one_hot(annotation.mask, classes)).to(device)
    carried = carry_by_all(stack.to(device), painted, start, settings, network)
    distance = distance_slices(annotation.ref, stack.shape[1])
    trust = settings.weight_per_slice**distance * carried.agreement.cpu().numpy()
    within_reach = (distance <= settings.reach_slices) & annotation.mask.any()
    soft = np.moveaxis(carried.soft.cpu().numpy(), 1, 1 + axis)
    return soft, along(axis, trust), along(axis, within_reach)


def _one_hot(mask: np.ndarray, classes: tuple[int, ...]) -> np.ndarray:
    """(rows, columns) label indexes to (1 + len(classes), rows, columns) probabilities."""
    foreground = np.stack([mask == index for index in classes]).astype(np.float32)
    return np.concatenate([1 - foreground.sum(0, keepdims=True), foreground])
