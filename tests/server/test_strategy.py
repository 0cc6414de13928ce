"""Each strategy's mean against plain NumPy, and what must not reach it."""

from collections.abc import Mapping
from typing import Any, get_args

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAdam, FedAvg
from hypothesis import given
from hypothesis import strategies as st

from common.errors import BadReplyError
from common.messages import arrays_to_record
from common.strategy import StrategyName, StrategySettings
from common.updates import Arrays, LocalUpdate, Note
from server.strategy import (
    LARGEST_NUM_EXAMPLES,
    average,
    build_strategy,
    check_update,
    restore_strategy,
    strategy_arrays,
)
from simulations.local_grid import LocalGrid

NAMES = get_args(StrategyName)
WEIGHTS = {"east": 1, "north": 2, "south": 3, "west": 10}
SHAPE = (2, 3)
Replies = dict[str, tuple[Message, LocalUpdate]]


@pytest.fixture(autouse=True)
def _flower_identity() -> None:
    """Flower makes messages only in a process that has an identity; the grid gives one."""
    LocalGrid(ClientApp(), {})


def _settings(name: str, **changes: Any) -> StrategySettings:
    return StrategySettings.model_validate({"name": name, **changes})


def _arrays(seed: int) -> Arrays:
    numbers = np.random.default_rng(seed)
    return {
        "segmenter/a": numbers.normal(size=SHAPE).astype(np.float32),
        "student/b": np.asarray(numbers.normal(), np.float32),
    }


def _reply(hospital: str, arrays: Arrays, num_examples: int) -> tuple[Message, LocalUpdate]:
    outcome = "trained" if num_examples else "abstained"
    note = Note(hospital=hospital, outcome=outcome, round=1, num_examples=num_examples)
    asked = Message(RecordDict(), 1, "train")
    return Message(RecordDict(), reply_to=asked), LocalUpdate(arrays, note)


def _replies(weights: Mapping[str, int] = WEIGHTS) -> Replies:
    return {
        name: _reply(name, _arrays(seed) if weight else {}, weight)
        for seed, (name, weight) in enumerate(sorted(weights.items()), 1)
    }


def _configured(settings: StrategySettings, current: Arrays, number: int = 1) -> FedAvg:
    """The strategy as it is after it has asked the hospitals."""
    strategy = build_strategy(settings)
    _configure(strategy, current, number)
    return strategy


def _configure(strategy: FedAvg, current: Arrays, number: int) -> None:
    grid = LocalGrid(ClientApp(), {1: {}})
    list(strategy.configure_train(number, arrays_to_record(current), ConfigRecord(), grid))


def _stacked(replies: Replies, name: str) -> np.ndarray:
    models = [update.arrays[name] for _, (_, update) in sorted(replies.items())]
    return np.stack(models).astype(np.float64)


def _average(settings: StrategySettings, replies: Replies) -> Arrays:
    current = _arrays(0)
    return average(_configured(settings, current), dict(replies), current, 1)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedProx"])
def test_fedavg_is_the_mean_weighted_by_scans(strategy: str) -> None:
    replies = _replies()
    mean = _average(_settings(strategy), replies)
    for name, array in mean.items():
        # Weights 1, 2, 3, 10 of 16, in the order of the hospitals' names.
        expected = np.average(_stacked(replies, name), axis=0, weights=[1, 2, 3, 10])
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)


def test_fedprox_is_fedavg_at_the_server() -> None:
    here, there = (
        _average(_settings("FedAvg"), _replies()),
        _average(_settings("FedProx"), _replies()),
    )
    assert all(here[name].tobytes() == there[name].tobytes() for name in here)


def test_fedprox_tells_the_hospitals_its_coefficient() -> None:
    strategy, config = build_strategy(_settings("FedProx", proximal_mu=0.25)), ConfigRecord()
    grid = LocalGrid(ClientApp(), {1: {}, 2: {}})
    messages = list(strategy.configure_train(1, arrays_to_record(_arrays(0)), config, grid))
    assert [m.content.config_records["config"]["proximal-mu"] for m in messages] == [0.25, 0.25]


def test_fedmedian_is_the_median_whatever_the_weights() -> None:
    replies = _replies()
    for name, array in _average(_settings("FedMedian"), replies).items():
        expected = np.median(_stacked(replies, name), axis=0)
        np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_fedtrimmedavg_leaves_out_the_ends() -> None:
    replies = _replies()
    for name, array in _average(_settings("FedTrimmedAvg", trimmed_share=0.25), replies).items():
        # A quarter of four hospitals is one at either end of every number.
        expected = np.sort(_stacked(replies, name), axis=0)[1:3].mean(axis=0)
        np.testing.assert_allclose(array, expected, rtol=1e-6)


def test_krum_takes_the_model_in_the_middle_of_the_crowd() -> None:
    # Five models, one of them malicious: the score is the sum over the 5 - 1 - 2 = 2 closest.
    places = {"a": 0.0, "b": 1.0, "c": 1.5, "d": 3.0, "e": 100.0}
    replies = {
        name: _reply(name, {"segmenter/a": np.full(SHAPE, place, np.float32)}, 4)
        for name, place in places.items()
    }
    current = {"segmenter/a": np.zeros(SHAPE, np.float32)}
    strategy = _configured(_settings("Krum", num_malicious=1), current)
    mean = average(strategy, dict(replies), current, 1)
    # Squared distances to the two closest, a: 1, 2.25; b: 0.25, 1; c: 0.25, 2.25. b is the middle.
    np.testing.assert_array_equal(mean["segmenter/a"], np.full(SHAPE, 1.0, np.float32))


def test_krum_compares_tensors_by_name_in_whatever_order_they_come() -> None:
    def model(place: float) -> Arrays:
        return {"a": np.full(2, place, np.float32), "b": np.full(2, -place, np.float32)}

    models = {"x": model(0), "y": dict(reversed(model(1).items())), "z": model(1.25)}
    replies = {name: _reply(name, arrays, 4) for name, arrays in models.items()}
    mean = average(_configured(_settings("Krum"), model(5)), dict(replies), model(5), 1)
    # y and z are the closest pair; taken in the order they come, y would be far from all.
    assert mean["a"].tolist() in ([1.0, 1.0], [1.25, 1.25])


def test_krum_tells_models_apart_that_single_precision_does_not() -> None:
    # Weights of 1000 and distances of 0.01: in single precision the squares of the weights leave
    # nothing of the distances.
    places = {"a": 0.0, "b": 0.01, "c": 0.015, "d": 0.03, "e": 1.0}
    replies = {
        name: _reply(name, {"segmenter/a": np.full(4096, 1000 + place, np.float32)}, 4)
        for name, place in places.items()
    }
    current = {"segmenter/a": np.full(4096, 1000, np.float32)}
    strategy = _configured(_settings("Krum", num_malicious=1), current)
    mean = average(strategy, dict(replies), current, 1)
    assert mean["segmenter/a"].tobytes() == np.full(4096, 1000.01, np.float32).tobytes()


def test_multikrum_is_the_mean_of_those_in_the_crowd() -> None:
    places = {"a": 0.0, "b": 1.0, "c": 1.5, "d": 3.0, "e": 100.0}
    replies = {
        name: _reply(name, {"segmenter/a": np.full(SHAPE, place, np.float32)}, 4)
        for name, place in places.items()
    }
    current = {"segmenter/a": np.zeros(SHAPE, np.float32)}
    settings = _settings("MultiKrum", num_malicious=1, num_selected=3)
    mean = average(_configured(settings, current), dict(replies), current, 1)
    # Scores as for Krum: a 3.25, b 1.25, c 2.5, d 6.25: a, b and c are left.
    np.testing.assert_allclose(mean["segmenter/a"], np.full(SHAPE, 2.5 / 3), rtol=1e-6)


def test_bulyan_is_the_mean_of_what_lies_next_to_the_median() -> None:
    places = dict(zip("abcdefg", (0.0, 1.0, 1.5, 2.0, 3.0, 3.5, 100.0), strict=True))
    replies = {
        name: _reply(name, {"segmenter/a": np.full(SHAPE, place, np.float32)}, 4)
        for name, place in places.items()
    }
    current = {"segmenter/a": np.zeros(SHAPE, np.float32)}
    settings = _settings("Bulyan", num_malicious=1)
    mean = average(_configured(settings, current), dict(replies), current, 1)
    # Krum over the four closest leaves five: b, c, d, e (scores 5.25 to 7.5) and a (16.25), before
    # f (19.5). Their median is 1.5; the three next to it are 1, 1.5 and 2.
    np.testing.assert_allclose(mean["segmenter/a"], np.full(SHAPE, 1.5), rtol=1e-6)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedProx"])
def test_equal_weights_do_not_ask_how_many_scans_there_are(strategy: str) -> None:
    current, replies = _arrays(0), _replies()
    mean = average(
        _configured(_settings(strategy), current), dict(replies), current, 1, weighing="equal"
    )
    for name, array in mean.items():
        np.testing.assert_allclose(array, _stacked(replies, name).mean(axis=0), rtol=1e-5)


def test_fedadams_first_step_by_its_formula() -> None:
    current, replies, rate = _arrays(0), _replies(), 0.05
    strategy = _configured(_settings("FedAdam", server_learning_rate=rate), current)
    stepped = average(strategy, dict(replies), current, 1)
    for name, array in stepped.items():
        delta = np.average(_stacked(replies, name), axis=0, weights=[1, 2, 3, 10]) - current[name]
        first, second = 0.1 * delta, 0.01 * delta**2
        # Flower counts the steps from the round's number plus one.
        corrected = rate * np.sqrt(1 - 0.99**2) / (1 - 0.9**2)
        expected = current[name] + corrected * first / (np.sqrt(second) + 1e-3)
        np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_mean_has_the_dtypes_and_shapes_of_the_current_model(name: str) -> None:
    current = _arrays(0)
    mean = _average(_settings(name), _replies())
    assert list(mean) == list(current)
    for key, array in current.items():
        assert (mean[key].dtype, mean[key].shape) == (array.dtype, array.shape)


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_the_replies_does_not_change_a_bit(name: str) -> None:
    forwards = _average(_settings(name), _replies())
    backwards = _average(_settings(name), dict(reversed(_replies().items())))
    assert all(forwards[key].tobytes() == backwards[key].tobytes() for key in forwards)


@pytest.mark.parametrize("name", NAMES)
def test_replies_and_the_current_model_stay_as_they_are(name: str) -> None:
    current, replies = _arrays(0), _replies()
    strategy = _configured(_settings(name), current)
    average(strategy, dict(replies), current, 1)
    for ours, expected in (
        (current, _arrays(0)),
        *((replies[name][1].arrays, _arrays(seed)) for seed, name in enumerate(sorted(replies), 1)),
    ):
        assert list(ours) == list(expected)
        assert all(ours[key].tobytes() == expected[key].tobytes() for key in expected)


@pytest.mark.parametrize("name", NAMES)
def test_hospitals_that_trained_on_nothing_are_left_out(name: str) -> None:
    with_them = _average(_settings(name), _replies({**WEIGHTS, "zero": 0, "zoo": 0}))
    without = _average(_settings(name), _replies())
    assert all(with_them[key].tobytes() == without[key].tobytes() for key in without)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weights", [{}, {"north": 0, "south": 0}])
def test_without_a_model_the_current_one_stays(name: str, weights: dict[str, int]) -> None:
    current = _arrays(0)
    strategy = _configured(_settings(name), current)
    mean = average(strategy, _replies(weights), current, 1)
    assert all(mean[key].tobytes() == array.tobytes() for key, array in current.items())
    assert strategy_arrays(strategy) == {}, "nor does the optimiser take a step"


def _two_rounds(strategy: FedAvg, *, forget: bool) -> tuple[Arrays, Arrays]:
    settings = _settings("FedAdam")
    arrays = _arrays(0)
    for number in (1, 2):
        if forget:
            fresh = build_strategy(settings)
            restore_strategy(fresh, strategy_arrays(strategy))
            strategy = fresh
        _configure(strategy, arrays, number)
        arrays = average(strategy, _replies(), arrays, number)
    return arrays, strategy_arrays(strategy)


def test_fedadam_goes_on_from_its_tensors_in_a_fresh_object() -> None:
    strategy = build_strategy(_settings("FedAdam"))
    arrays, moments = _two_rounds(strategy, forget=False)
    again, moments_again = _two_rounds(build_strategy(_settings("FedAdam")), forget=True)
    assert set(moments) == {f"{m}/{name}" for m in ("m_t", "v_t") for name in arrays}
    assert all(arrays[key].tobytes() == again[key].tobytes() for key in arrays)
    assert all(moments[key].tobytes() == moments_again[key].tobytes() for key in moments)


def test_fedadams_tensors_matter() -> None:
    current = _arrays(0)
    first = _configured(_settings("FedAdam"), current)
    after_one = average(first, _replies(), current, 1)
    _configure(first, after_one, 2)
    forgetful = _configured(_settings("FedAdam"), after_one, 2)
    kept = average(first, _replies(), after_one, 2)
    lost = average(forgetful, _replies(), after_one, 2)
    assert not np.array_equal(kept["segmenter/a"], lost["segmenter/a"])


@pytest.mark.parametrize("name", [name for name in NAMES if name != "FedAdam"])
def test_the_others_have_no_tensors_of_their_own(name: str) -> None:
    current = _arrays(0)
    strategy = _configured(_settings(name), current)
    average(strategy, _replies(), current, 1)
    assert strategy_arrays(strategy) == {}
    restore_strategy(strategy, {"m_t/a": np.zeros(1)})
    assert not isinstance(strategy, FedAdam)


@pytest.mark.parametrize("name", NAMES)
def test_nobody_online_is_asked_without_waiting(name: str) -> None:
    grid = LocalGrid(ClientApp(), {})
    strategy = build_strategy(_settings(name))
    messages = strategy.configure_train(1, arrays_to_record(_arrays(0)), ConfigRecord(), grid)
    assert list(messages) == []


@pytest.mark.parametrize(
    ("changes", "arrays", "message"),
    [
        ({"hospital": "south"}, {}, r"signed 'south', came from 'north'"),
        ({"round": 3}, {}, r"answers round 3, asked was round 2"),
        ({"num_examples": LARGEST_NUM_EXAMPLES + 1}, {}, r"claims 1000001 scans; at most 1000000"),
        ({"num_examples": 0}, {}, r"sent a model trained on no scan"),
        ({}, {"student/b": None}, r"missing \['student/b'\]"),
        ({}, {"x": np.zeros(1)}, r"not asked for \['x'\]"),
        ({}, {"segmenter/a": np.zeros((3, 2), np.float32)}, r"segmenter/a: expected .*\(2, 3\)"),
        ({}, {"segmenter/a": np.zeros(SHAPE)}, r"expected float32 .*got float64"),
        ({}, {"student/b": np.array(np.nan, np.float32)}, r"student/b: expected finite numbers"),
    ],
)
def test_a_reply_that_must_not_count_is_refused(
    changes: dict[str, Any], arrays: dict[str, Any], message: str
) -> None:
    note = Note(hospital="north", outcome="trained", round=2, num_examples=4)
    came = {**_arrays(1), **arrays}
    came = {name: array for name, array in came.items() if array is not None}
    update = LocalUpdate(came, note.model_copy(update=changes))
    with pytest.raises(BadReplyError, match=message):
        check_update(update, "north", _arrays(0), 2)


def test_a_good_reply_and_an_abstention_pass() -> None:
    note = Note(hospital="north", outcome="trained", round=2, num_examples=LARGEST_NUM_EXAMPLES)
    check_update(LocalUpdate(_arrays(1), note), "north", _arrays(0), 2)
    note = Note(hospital="north", outcome="abstained", round=2)
    check_update(LocalUpdate({}, note), "north", _arrays(0), 2)


@pytest.mark.parametrize(
    ("settings", "fewest"),
    [
        (_settings("FedAvg"), 1),
        (_settings("Krum", num_malicious=2), 7),
        (_settings("MultiKrum", num_malicious=1, num_selected=3), 5),
        (_settings("MultiKrum", num_malicious=1, num_selected=9), 10),
        (_settings("Bulyan", num_malicious=1), 7),
        (_settings("FedTrimmedAvg", trimmed_share=0.25), 4),
        (_settings("FedTrimmedAvg", trimmed_share=0.3), 4),
        (_settings("FedTrimmedAvg", trimmed_share=1 / 49), 50),
    ],
)
def test_the_fewest_models_a_strategy_needs(settings: StrategySettings, fewest: int) -> None:
    assert settings.fewest_models == fewest


@given(share=st.floats(0.001, 0.4999))
def test_with_the_fewest_models_trimming_cuts_somebody_and_leaves_somebody(share: float) -> None:
    fewest = _settings("FedTrimmedAvg", trimmed_share=share).fewest_models
    cut = int(share * fewest)  # Flower's own rule, at either end
    assert cut >= 1
    assert fewest - 2 * cut >= 1
    assert int(share * (fewest - 1)) == 0
