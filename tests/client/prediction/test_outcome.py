"""Labels, confidence and volumes of a scan, and the picture of them."""

import io
from collections.abc import Callable

import matplotlib.image
import numpy as np

from client.prediction.model import Model
from client.prediction.outcome import Outcome, measure_volumes, predict
from client.prediction.overlay import draw_overlay
from common.scans import Geometry, Scan

MakeModel = Callable[..., Model]
# Oblique and sheared: a voxel has 2 * 1.5 * 0.5 mm3, whatever the edges measure.
AFFINE = ((2.0, 0.5, 0.0, 7.0), (0.0, 1.5, 0.25, 8.0), (0.0, 0.0, 0.5, 9.0), (0.0, 0.0, 0.0, 1.0))


def scan_with(hard: np.ndarray) -> Scan:
    i, j, k = hard.shape
    image = hard[None].astype(np.float32) - 1  # -1, 0 and 1 are labels 0, 1 and 2
    return Scan("scan", image, Geometry((i, j, k), AFFINE), "CT")


def blocks() -> np.ndarray:
    hard = np.zeros((10, 11, 12), dtype=np.uint8)
    hard[2:6, 2:6, 2:6] = 1
    hard[6:8, 2:6, 2:6] = 2
    return hard


def test_every_voxel_gets_its_likeliest_label_and_how_likely_that_is(make_model: MakeModel) -> None:
    found = predict(make_model(), scan_with(blocks()))
    np.testing.assert_array_equal(found.labels, blocks())
    # Next to it both others are 40 less.
    assert found.confidence.min() == 1.0
    halfway = scan_with(blocks())
    halfway.image[:] = -0.5
    found = predict(make_model(), halfway)
    # exp(-10), exp(-10) and exp(-90): neither of the two likeliest is likelier.
    np.testing.assert_array_equal(found.confidence, 0.5)


def test_confidence_comes_in_steps_that_pack_well(make_model: MakeModel) -> None:
    scan = scan_with(blocks())
    scan.image[:] = np.random.default_rng(0).uniform(-1, 1, size=scan.image.shape)
    steps = predict(make_model(), scan).confidence * 256
    np.testing.assert_array_equal(steps, np.round(steps))
    assert len(np.unique(steps)) > 50


def test_a_class_that_is_not_learned_yet_is_not_measured(make_model: MakeModel) -> None:
    model = make_model(number=2)  # the second task begins with round 3
    assert [label.name for label in model.labels] == ["liver"]
    found = predict(model, scan_with(blocks()))
    (volume,) = measure_volumes(model, scan_with(blocks()), found)
    assert volume.name == "liver"


def test_volumes_are_in_millilitres_of_the_grid_as_it_lies(make_model: MakeModel) -> None:
    scan, hard = scan_with(blocks()), blocks()
    sure = np.where(hard == 1, 0.75, 1.0).astype(np.float32)
    liver, lesion = measure_volumes(make_model(), scan, Outcome(hard, sure))
    assert (liver.voxels, lesion.voxels) == (64, 32)
    assert (liver.volume_ml, lesion.volume_ml) == (0.096, 0.048)
    assert (liver.mean_confidence, lesion.mean_confidence) == (0.75, 1.0)
    assert (liver.snomed, lesion.snomed) == ("10200004", None)
    nothing = Outcome(np.zeros_like(hard), sure)
    assert [v.mean_confidence for v in measure_volumes(make_model(), scan, nothing)] == [None, None]


def test_the_picture_shows_the_colours_of_what_was_found(make_model: MakeModel) -> None:
    model, scan = make_model(), scan_with(blocks())
    scan.image[:] = 0  # grey, so that what is not grey was painted
    sure = np.ones(scan.geometry.shape, dtype=np.float32)
    shown = draw_overlay(scan, blocks(), sure, model.labels, "found")
    empty = draw_overlay(scan, 0 * blocks(), sure, model.labels, "none")
    pixels, bare = (matplotlib.image.imread(io.BytesIO(png))[..., :3] for png in (shown, empty))
    assert pixels.shape == bare.shape
    assert np.ptp(bare, axis=-1).max() < 0.01
    green = pixels[..., 1] - pixels[..., 0]
    assert (green > 0.1).sum() > 1000
    # The liver lies towards the patient's left (low indexes) of the lesion: right on the screen.
    orange = pixels[..., 0] - pixels[..., 2]
    axial = slice(2 * pixels.shape[1] // 3, None)
    assert (
        np.nonzero(green[:, axial] > 0.1)[1].mean() > np.nonzero(orange[:, axial] > 0.1)[1].mean()
    )
