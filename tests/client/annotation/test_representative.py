"""How well a slice stands for the others, on textures."""

import numpy as np
import pytest

from client.annotation.representative import coverage


def blocks(seed: int) -> np.ndarray:
    """A coarse texture, 24 x 24."""
    return np.kron(np.random.default_rng(seed).normal(size=(6, 6)), np.ones((4, 4)))


def stack_of(*slices: np.ndarray) -> np.ndarray:
    return np.stack(slices)[None].astype(np.float32)


def test_the_odd_one_out_is_covered_least() -> None:
    noise = np.random.default_rng(9).normal(size=(6, 24, 24))
    slices = [blocks(0) + 0.2 * one for one in noise]
    slices[3] = blocks(1)
    covered = coverage(stack_of(*slices))
    assert covered.shape == (6,)
    assert int(covered.argmin()) == 3


def test_both_looks_count_alike() -> None:
    # Each look has a mean of 0 and a spread of 1 over the slices: together at most 2 of spread.
    covered = coverage(stack_of(*(blocks(seed) for seed in (0, 0, 1, 2, 0))))
    assert covered.mean() == pytest.approx(0, abs=1e-5)
    assert 0.5 < covered.std() <= 2 + 1e-5


def test_equal_slices_are_covered_alike() -> None:
    covered = coverage(stack_of(blocks(0), blocks(1), blocks(0), blocks(2)))
    assert covered[0] == pytest.approx(covered[2])
    assert covered[0] > max(covered[1], covered[3])


def test_brightness_does_not_count() -> None:
    slices = [blocks(seed) for seed in (0, 0, 1, 0, 2)]
    brighter = [one + 5 * place for place, one in enumerate(slices)]
    np.testing.assert_allclose(
        coverage(stack_of(*brighter)), coverage(stack_of(*slices)), atol=1e-3
    )


@pytest.mark.parametrize("shape", [(1, 1, 3, 4), (2, 4, 1, 1), (1, 3, 40, 2)])
def test_any_shape_is_looked_at(shape: tuple[int, ...]) -> None:
    stack = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    kept = stack.copy()
    covered = coverage(stack)
    assert covered.shape == (shape[1],)
    assert np.isfinite(covered).all()
    np.testing.assert_array_equal(stack, kept)


def test_slices_without_any_structure_are_covered_alike() -> None:
    assert coverage(np.zeros((1, 4, 8, 8), dtype=np.float32)).tolist() == [0, 0, 0, 0]
