"""How models travel: what half precision costs a weight, by hand, and what it refuses."""

import numpy as np
import pytest

from common.errors import BadReplyError
from common.updates import Arrays
from common.wire import HALF, bytes_by_network, from_wire, looks_on_wire, to_wire

SENT: Arrays = {
    "segmenter/a": np.array([[1.0, -2.0], [0.5, 0.0]], np.float32),
    "student/b": np.asarray(3.0, np.float32),  # no axes
}


def _moved(steps: Arrays) -> Arrays:
    return {name: np.asarray(SENT[name] + steps[name], np.float32) for name in SENT}


def test_whole_models_travel_as_they_are() -> None:
    trained = _moved({name: np.ones_like(array) for name, array in SENT.items()})
    assert to_wire(trained, SENT, "float32") is trained
    assert from_wire(trained, SENT, "float32") is trained
    assert looks_on_wire(SENT, "float32") is SENT


def test_what_half_precision_can_hold_comes_back_to_the_bit() -> None:
    steps = {"segmenter/a": np.array([[0.25, -0.125], [2**-24, 0.0]]), "student/b": np.array(-1.5)}
    trained = _moved(steps)
    leaving = to_wire(trained, SENT, "float16-deltas")
    assert leaving["segmenter/a"].tolist() == steps["segmenter/a"].tolist()
    for name, array in leaving.items():
        assert isinstance(array, np.ndarray)
        assert (array.dtype, array.shape) == (HALF, SENT[name].shape)
    back = from_wire(leaving, SENT, "float16-deltas")
    for name, array in back.items():
        assert isinstance(array, np.ndarray)
        assert (array.dtype, array.shape) == (np.float32, SENT[name].shape)
        assert array.tolist() == trained[name].tolist()


def test_a_weight_is_off_by_the_rounding_of_its_difference() -> None:
    """Half precision has 11 significant bits: a number is off by half of its last one.

    That is a share of 2^-11 at most, or 2^-25 where the exponent ends (below 2^-14). The sum is
    rounded once more, to 24 bits: by a share of 2^-24 of the weight.
    """
    numbers = np.random.default_rng(0)
    sent = {"a": numbers.normal(size=10_000).astype(np.float32)}
    size = 10.0 ** numbers.uniform(-9, 1, 10_000)
    trained = {"a": (sent["a"] + size * numbers.choice([-1, 1], 10_000)).astype(np.float32)}
    back = from_wire(to_wire(trained, sent, "float16-deltas"), sent, "float16-deltas")
    true = trained["a"].astype(np.float64)
    step = np.abs(true - sent["a"])
    bound = np.maximum(2.0**-11 * step, 2.0**-25) + 2.0**-24 * np.abs(true)
    off = np.abs(back["a"] - true)
    assert (off <= bound * (1 + 1e-6)).all()
    # The bound is near: some weight uses most of it, so a coarser rounding would not pass.
    assert (off > 0.9 * bound).any()
    # Rounding the weights themselves would be off by 2^-11 of a weight, not of its step.
    small = step < 1e-3
    assert np.abs(true.astype(HALF) - true)[small].max() > 100 * off[small].max()


def test_half_the_bytes_travel() -> None:
    trained = _moved({name: np.ones_like(array) for name, array in SENT.items()})
    assert bytes_by_network(trained) == {"segmenter": 16, "student": 4}
    leaving = to_wire(trained, SENT, "float16-deltas")
    assert bytes_by_network(leaving) == {"segmenter": 8, "student": 2}
    assert bytes_by_network({}) == {}


@pytest.mark.parametrize("step", [1e5, -1e5, np.nan, np.inf])
def test_a_step_that_half_precision_cannot_hold_is_refused(step: float) -> None:
    trained = _moved({name: np.full_like(array, step) for name, array in SENT.items()})
    leaving = to_wire(trained, SENT, "float16-deltas")
    with pytest.raises(BadReplyError, match="segmenter/a: expected finite numbers"):
        from_wire(leaving, SENT, "float16-deltas")


def test_what_is_no_difference_is_refused() -> None:
    whole = _moved({name: np.ones_like(array) for name, array in SENT.items()})
    with pytest.raises(BadReplyError, match=r"expected float16 \(2, 2\), got float32 \(2, 2\)"):
        from_wire(whole, SENT, "float16-deltas")
    leaving = to_wire(whole, SENT, "float16-deltas")
    with pytest.raises(BadReplyError, match=r"missing \['student/b'\]"):
        from_wire({"segmenter/a": leaving["segmenter/a"]}, SENT, "float16-deltas")
    bent = {**leaving, "segmenter/a": leaving["segmenter/a"].reshape(4)}
    with pytest.raises(BadReplyError, match=r"expected float16 \(2, 2\), got float16 \(4,\)"):
        from_wire(bent, SENT, "float16-deltas")


def test_an_answer_without_a_model_stays_one() -> None:
    assert from_wire({}, SENT, "float16-deltas") == {}
    assert to_wire({}, SENT, "float16-deltas") == {}


def test_nothing_that_goes_in_is_changed() -> None:
    sent = {name: array.copy() for name, array in SENT.items()}
    trained = _moved({name: np.ones_like(array) for name, array in SENT.items()})
    before = {name: array.copy() for name, array in trained.items()}
    from_wire(to_wire(trained, sent, "float16-deltas"), sent, "float16-deltas")
    assert all(np.array_equal(sent[name], SENT[name]) for name in SENT)
    assert all(np.array_equal(trained[name], before[name]) for name in before)
