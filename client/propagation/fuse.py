"""A scan's own painted slice times the cohort's network.

Near the painted slice propagation is right more often than the network, further out the network is:
the product with a weight that falls with distance takes the better of the two. How far a slice
reaches depends on how much of the organ it cuts: the tip of an organ says little about its body.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from client.propagation.slice_distance import along, distance_slices
from client.propagation.spread_labels import is_too_short
from common.plan import Propagation
from common.scans import LabelMap, SliceAnnotation

# Found on training scans of the hippocampus (docs/benchmarks.md): the propagation counts three
# times at the painted slice; its weight falls to 1/e over 0.4 times the side of a square with the
# painted structures' area; neither side may veto the other.
WEIGHT_AT_SLICE = 3.0
REACH_PER_ROOT_AREA = 0.4
LEAST_PROPAGATED, LEAST_PREDICTED = 0.05, 1e-4


def fuse(
    propagated: LabelMap,
    annotations: Sequence[SliceAnnotation],
    predicted: Float[np.ndarray, "m i j k"],
    settings: Propagation,
) -> LabelMap:
    """The product of both, painted slices exact.

    Away from the painted slices a voxel weighs `segmenter_weight` at most: as much of it as the
    product is sure, from nothing at even odds, and `weight_per_slice` less with each slice of
    distance. A class that is on no painted slice gets its probability from the network alone.

    Args:
        propagated: what `spread_labels` made of the annotations.
        annotations: the scan's painted slices.
        predicted: the network's probabilities for all of the plan's labels, background first.
        settings: the weights.
    """
    channels = [0, *propagated.classes]
    chance = np.asarray(predicted, dtype=np.float32)[channels]
    # Labels that nobody looks for here count as background.
    chance[0] += 1 - chance.sum(0)
    evidence = _evidence(np.asarray(propagated.soft, dtype=np.float32), annotations, propagated)
    logarithm = np.log(chance + LEAST_PREDICTED)
    # Where nothing was spread there is no evidence, for or against anything.
    if not is_too_short(propagated.weight.shape, annotations):
        reach = _reach(annotations, propagated.weight.shape)
        logarithm += reach * np.log(evidence + LEAST_PROPAGATED)
    product = np.exp(logarithm - logarithm.max(0))
    soft = product / product.sum(0)
    expert = np.asarray(propagated.expert)
    soft[:, expert] = np.asarray(propagated.soft)[:, expert]
    sure = np.clip(2 * soft.max(0) - 1, 0, 1)
    weight = settings.segmenter_weight * sure * _nearness(annotations, sure.shape, settings)
    weight[expert] = 1
    return LabelMap(propagated.classes, soft, weight, expert, propagated.classes, "pseudo")


def _evidence(
    soft: Float[np.ndarray, "n i j k"], annotations: Sequence[SliceAnnotation], labels: LabelMap
) -> Float[np.ndarray, "n i j k"]:
    """The propagated probabilities; classes that were painted nowhere share the background's."""
    painted = {int(value) for a in annotations for value in np.unique(a.mask)}
    shown = np.array([True, *(index in painted for index in labels.classes)])
    evidence: Float[np.ndarray, "n i j k"] = np.where(shown[:, None, None, None], soft, soft[:1])
    return evidence


def _nearness(
    annotations: Sequence[SliceAnnotation], shape: tuple[int, ...], settings: Propagation
) -> Float[np.ndarray, "i j k"]:
    """`weight_per_slice` to the power of the distance from the nearest painted slice."""
    nearness = np.zeros((1, 1, 1), dtype=np.float32)
    for annotation in annotations:
        ref = annotation.ref
        weight = settings.weight_per_slice ** distance_slices(ref, shape[ref.axis])
        nearness = np.maximum(nearness, along(ref.axis, weight))
    return nearness


def _reach(
    annotations: Sequence[SliceAnnotation], shape: tuple[int, ...]
) -> Float[np.ndarray, "i j k"]:
    """How much the propagation counts: the most that any painted slice gives it."""
    reach = np.zeros((1, 1, 1), dtype=np.float32)
    for annotation in annotations:
        ref, area = annotation.ref, int((annotation.mask > 0).sum())
        if area == 0:
            continue  # an empty slice says nothing about its neighbours
        length_slices = REACH_PER_ROOT_AREA * area**0.5
        distance = distance_slices(ref, shape[ref.axis])
        weight = WEIGHT_AT_SLICE * np.exp(-distance / length_slices)
        reach = np.maximum(reach, along(ref.axis, weight).astype(np.float32))
    return reach
