"""How long an update is, and that clipping shortens it without turning it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.clipping import clip_update, update_norm
from common.updates import Arrays


def _pair(seed: int, scale: float) -> tuple[Arrays, Arrays]:
    numbers = np.random.default_rng(seed)
    received: Arrays = {
        "a": numbers.normal(size=(3, 4)).astype(np.float32),
        "b": np.asarray(numbers.normal(), np.float32),  # no axes
    }
    steps = {name: scale * numbers.normal(size=array.shape) for name, array in received.items()}
    trained = {
        name: np.asarray(array + steps[name], np.float32) for name, array in received.items()
    }
    return received, trained


def test_the_norm_is_that_of_all_tensors_as_one_vector() -> None:
    received = {"a": np.zeros((2, 1), np.float32), "b": np.ones((), np.float32)}
    trained = {"a": np.array([[2], [3]], np.float32), "b": np.asarray(7, np.float32)}
    assert update_norm(trained, received) == 7.0  # sqrt(4 + 9 + 36)
    assert update_norm({}, received) == 0.0
    assert update_norm(received, received) == 0.0


def test_the_norm_of_the_largest_numbers_that_there_are_is_a_number() -> None:
    received = {"a": np.full(4, -3e38, np.float32)}
    trained = {"a": np.full(4, 3e38, np.float32)}
    assert update_norm(trained, received) == pytest.approx(1.2e39, rel=1e-6)
    clipped = clip_update(trained, received, 1.0)
    assert np.isfinite(clipped["a"]).all()


@given(seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3), largest=st.floats(1e-2, 10))
def test_a_clipped_update_is_as_long_as_allowed_and_points_the_same_way(
    seed: int, scale: float, largest: float
) -> None:
    received, trained = _pair(seed, scale)
    before = {name: array.copy() for name, array in trained.items()}
    clipped = clip_update(trained, received, largest)
    norm = update_norm(trained, received)
    assert all(np.array_equal(trained[name], before[name]) for name in before), "input stays"
    for name, array in clipped.items():
        assert (array.dtype, array.shape) == (trained[name].dtype, trained[name].shape)
        share = min(1.0, largest / norm)
        expected = received[name] + share * (trained[name].astype(float) - received[name])
        np.testing.assert_allclose(array, expected, rtol=1e-6, atol=1e-6)
    assert update_norm(clipped, received) <= min(norm, largest) + 1e-5


def test_a_short_update_is_left_as_it_is_to_the_bit() -> None:
    received, trained = _pair(1, 0.01)
    clipped = clip_update(trained, received, 1.0)
    assert all(clipped[name].tobytes() == trained[name].tobytes() for name in trained)
