"""Predictions on the scan's own grid, and scores on painted slices."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Conv3d, Module

from client.learning.evaluate import score_painted_slices
from client.learning.predict import predict_labels, predict_probabilities, predict_slice
from common.learning_settings import Training
from common.plan import FederationPlan
from common.scans import Geometry, Scan, SliceAnnotation, SliceRef

CPU = torch.device("cpu")
SETTINGS = Training(patch_size=(8, 8, 8), batch_size=2)


class Threshold(Module):
    """Finds label 1 above 0.5, and label 2 above 1.5."""

    def forward(self, image: Tensor) -> Tensor:
        distances = torch.cat([-((image - value) ** 2) for value in (0.0, 1.0, 2.0)], dim=1)
        return 20 * distances


def scan_of(image: np.ndarray, spacing_mm: tuple[float, float, float] = (1, 1, 1)) -> Scan:
    i, j, k = image.shape
    affine = np.diag([*spacing_mm, 1]).tolist()
    geometry = Geometry((i, j, k), tuple(tuple(float(v) for v in row) for row in affine))
    return Scan("scan", image[None].astype(np.float32), geometry, "MR")


def blocks(*shape: int) -> np.ndarray:
    hard = np.zeros(shape, dtype=np.uint8)
    hard[shape[0] // 3 :, shape[1] // 4 :, shape[2] // 4 :] = 1
    hard[2 * shape[0] // 3 :] = 2
    return hard


@pytest.mark.parametrize("spacing_mm", [None, (1.0, 1.0, 1.0), (2.0, 0.7, 1.3), (9.0, 9.0, 9.0)])
@pytest.mark.parametrize("shape", [(12, 17, 9), (3, 20, 5), (1, 1, 1), (8, 8, 8)])
def test_probabilities_lie_on_the_scans_own_grid(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None
) -> None:
    settings = SETTINGS.model_copy(update={"spacing_mm": spacing_mm})
    probabilities = predict_probabilities(
        Threshold(), scan_of(blocks(*shape)), settings, device=CPU
    )
    assert probabilities.shape == (3, *shape)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(shape))


@pytest.mark.parametrize("shape", [(12, 17, 9), (3, 20, 5), (1, 2, 3)])
def test_a_voxelwise_network_answers_every_voxel(shape: tuple[int, int, int]) -> None:
    hard = blocks(*shape)
    labels = predict_labels(Threshold(), scan_of(hard), SETTINGS, device=CPU)
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, hard)


def test_labels_keep_their_place_at_another_spacing() -> None:
    hard = blocks(24, 24, 24)
    settings = SETTINGS.model_copy(update={"spacing_mm": (2.0, 2.0, 2.0)})
    labels = predict_labels(Threshold(), scan_of(hard), settings, device=CPU)
    # Only voxels at a border between labels may differ.
    assert (labels == hard).mean() > 0.9
    np.testing.assert_array_equal(labels[10:14, 10:22, 10:22], hard[10:14, 10:22, 10:22])


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("index", [0, 1, 9, 18, 19])
def test_a_slice_is_the_slice_of_the_slab_around_it(axis: int, index: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Conv3d(1, 3, kernel_size=5, padding=2)
    image = np.random.default_rng(0).normal(size=(20, 20, 20))
    ref = SliceRef("scan", axis, index)
    found = predict_slice(network, scan_of(image), ref, SETTINGS, device=CPU)
    # A slab of 8 slices, in which the slice lies fifth unless an end of the volume is near.
    first = min(max(index - 4, 0), 12)
    slab = np.moveaxis(np.moveaxis(image, axis, 0)[first : first + 8], 0, axis)
    whole = predict_labels(network, scan_of(slab), SETTINGS, device=CPU)
    np.testing.assert_array_equal(found, np.moveaxis(whole, axis, 0)[index - first])
    assert len(np.unique(found)) > 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_a_volume_thinner_than_the_patch_is_that_of_the_volume(axis: int) -> None:
    image = np.random.default_rng(0).normal(size=(5, 6, 7))
    ref = SliceRef("scan", axis, 3)
    found = predict_slice(Threshold(), scan_of(image), ref, SETTINGS, device=CPU)
    whole = predict_labels(Threshold(), scan_of(image), SETTINGS, device=CPU)
    np.testing.assert_array_equal(found, whole[ref.selection])


def test_the_slab_is_as_thick_in_millimetres_as_the_training_patch() -> None:
    thicknesses: list[tuple[int, ...]] = []

    class Spy(Threshold):
        def forward(self, image: Tensor) -> Tensor:
            thicknesses.append(tuple(image.shape[2:]))
            return super().forward(image)

    # Scan voxels are 2 mm, training voxels 1 mm: four slices are resampled to the patch's eight.
    settings = SETTINGS.model_copy(update={"spacing_mm": (1.0, 1.0, 1.0)})
    scan = scan_of(blocks(20, 4, 4), spacing_mm=(2, 2, 2))
    found = predict_slice(Spy(), scan, SliceRef("scan", 0, 10), settings, device=CPU)
    np.testing.assert_array_equal(found, blocks(20, 4, 4)[10])
    assert set(thicknesses) == {(8, 8, 8)}


def test_prediction_leaves_the_scan_as_it_was() -> None:
    scan = scan_of(blocks(9, 9, 9))
    scan.image.flags.writeable = False
    kept = scan.image.copy()
    predict_probabilities(Threshold(), scan, SETTINGS, device=CPU)
    np.testing.assert_array_equal(scan.image, kept)


def test_painted_slices_are_scored_by_hand() -> None:
    size = {"channels": [2, 2], "strides": [2]}
    task = {"modality": "MR", "plane": "axial", "rounds": 1, "classes": ["organ", "lesion"]}
    plan = FederationPlan.model_validate(
        {
            "name": "score",
            "labels": [{"name": "organ", "index": 1}, {"name": "lesion", "index": 2}],
            "tasks": [{"name": "only", **task}],
            "segmenter": size,
            "student": size,
            "training": SETTINGS.model_dump(),
            "limits": {"hospitals": 1},
        }
    )
    shown = np.zeros((8, 8, 8))
    shown[0, :4, 2] = 1

    def painted(index: int, mask: np.ndarray) -> SliceAnnotation:
        return SliceAnnotation(SliceRef("scan", 2, index), mask, (1, 2), "someone", 1.0)

    half_right, missed, empty = (np.zeros((8, 8), dtype=np.uint8) for _ in range(3))
    half_right[0, 2:6] = 1  # two of the four shown
    missed[0, 0], missed[3, 3] = 1, 2  # neither is shown on slice 5
    annotations = [painted(2, half_right), painted(5, missed), painted(6, empty)]
    score = score_painted_slices(
        Threshold(), annotations, lambda _: scan_of(shown), plan, plan.tasks[0], device=CPU
    )
    assert score.task == "only"
    # Over all slices: four pixels of organ shown, four and one painted, two in common.
    assert score.dice == {"organ": pytest.approx(2 * 2 / (4 + 4 + 1)), "lesion": 0.0}
    assert (score.cases, score.missed) == (3, 2)
    # Where nobody painted a class, a stray voxel of it is no Dice of 0 beside the others.
    shown[7, 7, 2] = 2
    score = score_painted_slices(
        Threshold(), annotations[:1], lambda _: scan_of(shown), plan, plan.tasks[0], device=CPU
    )
    assert set(score.dice) == {"organ"}
    # Where nobody looked for a class, what is found of it is neither right nor wrong.
    elsewhere = replace(painted(5, missed), looked_for=(2,))
    score = score_painted_slices(
        Threshold(),
        [annotations[0], elsewhere],
        lambda _: scan_of(shown),
        plan,
        plan.tasks[0],
        device=CPU,
    )
    assert score.dice["organ"] == pytest.approx(2 * 2 / (4 + 4))
    assert (score.dice["lesion"], score.missed) == (0.0, 1)
