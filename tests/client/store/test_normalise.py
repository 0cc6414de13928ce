"""Intensities come to one scale."""

import numpy as np
import pytest

from client.store.normalise import normalise


def test_ct_is_clipped_to_its_window() -> None:
    image = np.array([-2000, -100, 50, 200, 3000], dtype=np.float32).reshape(1, 5, 1, 1)
    scaled = normalise(image, "CT", (-100.0, 200.0))
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.ravel(), [-1, -1, 0, 1, 1])


def test_mr_channels_each_have_mean_zero_and_deviation_one() -> None:
    rng = np.random.default_rng(0)
    image = (rng.normal(size=(2, 8, 8, 8)) * [[[[10]]], [[[1000]]]] + 500).astype(np.float32)
    scaled = normalise(image, "MR", None)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=(1, 2, 3)), 0, atol=1e-4)
    np.testing.assert_allclose(scaled.std(axis=(1, 2, 3)), 1, atol=1e-4)


@pytest.mark.parametrize(("gain", "offset"), [(3.0, 0.0), (0.5, -40.0)])
def test_mr_does_not_depend_on_gain_and_offset(gain: float, offset: float) -> None:
    image = np.random.default_rng(1).gamma(2, 50, size=(1, 8, 8, 8)).astype(np.float32)
    changed = (gain * image + offset).astype(np.float32)
    expected, found = normalise(image, "MR", None), normalise(changed, "MR", None)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_mr_outliers_do_not_stretch_the_scale() -> None:
    image = np.random.default_rng(2).normal(size=(1, 10, 10, 10)).astype(np.float32)
    spiked = image.copy()
    spiked[0, 0, 0, 0] = 1e6
    assert np.abs(normalise(spiked, "MR", None)).max() < 10


def test_a_few_bright_voxels_on_black_stay_visible() -> None:
    image = np.zeros((1, 10, 10, 10), dtype=np.float32)
    image[0, 5, 5, 5] = 7
    scaled = normalise(image, "MR", None)
    assert np.isfinite(scaled).all()
    assert scaled[0, 5, 5, 5] > scaled[0, 0, 0, 0]
