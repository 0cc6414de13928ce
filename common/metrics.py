"""Honest scores of one model: overlap, and surface distance in mm.

A structure that is there and was not found counts as Dice 0 and is counted as missed; one that is
absent from both truth and prediction is left out. MONAI's Hausdorff distance turns a missed
structure into NaN, which then drops out of means, so the distance is computed here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Integer
from scipy import ndimage

Mask = Bool[np.ndarray, "..."]


@dataclass(frozen=True)
class StructureScore:
    """One structure in one scan. `hd95_mm` is None where a surface is missing on either side."""

    dice: float
    hd95_mm: float | None
    missed: bool


def dice(prediction: Mask, truth: Mask) -> float | None:
    """2 |P and T| / (|P| + |T|); None if both are empty."""
    total = int(prediction.sum()) + int(truth.sum())
    if total == 0:
        return None
    return 2.0 * int((prediction & truth).sum()) / total


def hausdorff95_mm(
    prediction: Mask, truth: Mask, spacing_mm: tuple[float, float, float]
) -> float | None:
    """95th percentile of the distances between the two surfaces, the larger of both directions.

    None if either mask is empty. The surface is made of the voxels with a face outside the mask.
    """
    if not prediction.any() or not truth.any():
        return None
    box = _bounding_box(prediction | truth)
    surfaces = [_surface(mask[box]) for mask in (prediction, truth)]
    distances = [
        ndimage.distance_transform_edt(~surface, sampling=spacing_mm) for surface in surfaces
    ]
    prediction_to_truth = np.percentile(distances[1][surfaces[0]], 95)
    truth_to_prediction = np.percentile(distances[0][surfaces[1]], 95)
    return float(max(prediction_to_truth, truth_to_prediction))


def score_structure(
    prediction: Mask, truth: Mask, spacing_mm: tuple[float, float, float]
) -> StructureScore | None:
    """The scores of one structure; None if it is absent from both."""
    overlap = dice(prediction, truth)
    if overlap is None:
        return None
    distance = hausdorff95_mm(prediction, truth, spacing_mm)
    return StructureScore(overlap, distance, missed=bool(truth.any() and not prediction.any()))


def score_labels(
    prediction: Integer[np.ndarray, "i j k"],
    truth: Integer[np.ndarray, "i j k"],
    classes: Sequence[int],
    spacing_mm: tuple[float, float, float],
) -> dict[int, StructureScore]:
    """The score of each class that is present in truth or prediction, by label index."""
    scores = {
        index: score_structure(prediction == index, truth == index, spacing_mm) for index in classes
    }
    return {index: score for index, score in scores.items() if score is not None}


def mean_per_class(cases: Sequence[Mapping[int, StructureScore]]) -> dict[int, float]:
    """Mean Dice of each class over the cases where it was scored."""
    classes = sorted({index for case in cases for index in case})
    return {
        index: float(np.mean([case[index].dice for case in cases if index in case]))
        for index in classes
    }


def _surface(mask: Mask) -> Mask:
    """Voxels of the mask with a face on the outside; beyond the array's edge is outside."""
    surface: Mask = mask & ~ndimage.binary_erosion(mask)
    return surface


def _bounding_box(mask: Mask) -> tuple[slice, ...]:
    found = ndimage.find_objects(mask.astype(np.uint8))[0]
    assert found is not None  # the caller's masks are not empty
    return tuple(found)
