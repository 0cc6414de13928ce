"""Clipping and noise in the mean, and that what they spend is counted."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fake_hospitals
import numpy as np
import pytest
from fake_hospitals import SCANS, FakeHospitals
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from common.clipping import update_norm
from common.errors import SettingsError
from common.messages import arrays_to_record
from common.plan import FederationPlan
from common.privacy import Privacy
from common.strategy import StrategySettings
from common.updates import Arrays, LocalUpdate, Note, RoundRequest
from server.private_mean import spent_epsilon, unguessable_noise
from server.report import federation_report
from server.round_state import RoundState
from server.rounds import first_state, run_federation
from server.strategy import average, build_strategy
from simulations.local_grid import LocalGrid

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "west", 2: "north", 3: "south", 4: "east"}
LIMITS = {"hospitals": 4, "quorum": 2, "deadline_s": 0.1, "join_deadline_s": 0.1}
NOISY = {"clipping_norm": 0.5, "noise_multiplier": 2.0}


def _replies(models: dict[str, Arrays]) -> dict[str, tuple[Message, LocalUpdate]]:
    replies = {}
    for place, (name, arrays) in enumerate(models.items(), 1):
        note = Note(hospital=name, outcome="trained", round=1, num_examples=10**place)
        replies[name] = (
            Message(RecordDict(), reply_to=Message(RecordDict(), 1, "train")),
            LocalUpdate(arrays, note),
        )
    return replies


def _mean(models: dict[str, Arrays], current: Arrays, **changes: Any) -> Arrays:
    name = changes.pop("strategy", "FedAvg")
    strategy, grid = build_strategy(StrategySettings(name=name)), LocalGrid(ClientApp(), {1: {}})
    list(strategy.configure_train(1, arrays_to_record(current), ConfigRecord(), grid))
    return average(strategy, _replies(models), current, 1, **changes)


def _moved(current: Arrays, step: float) -> Arrays:
    return {name: np.asarray(array + step, array.dtype) for name, array in current.items()}


# The mean ---------------------------------------------------------------------------------------


def test_clipping_shortens_long_updates_and_leaves_short_ones() -> None:
    # Names against the order in which they come, and 16 numbers: a step of s has the norm 4 s.
    current = {"z": np.ones(12, np.float32), "a": np.zeros(4, np.float32)}
    models = {"east": _moved(current, 0.25), "north": _moved(current, -50.0)}
    clipped = Privacy(clipping_norm=2.0)
    mean = _mean(models, current, weighing="equal", privacy=clipped)
    # 0.25 stays, -50 (norm 200) becomes -0.5: together -0.125.
    np.testing.assert_allclose(mean["a"], np.full(4, -0.125), atol=1e-6)
    np.testing.assert_allclose(mean["z"], np.full(12, 0.875), atol=1e-6)
    assert mean["a"].dtype == np.float32
    plain = _mean(models, current, weighing="equal")
    np.testing.assert_allclose(plain["a"], np.full(4, -24.875), rtol=1e-6)


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedMedian", "Krum", "MultiKrum"])
def test_where_nothing_is_too_long_clipping_changes_nothing(strategy: str) -> None:
    current = {"a": np.linspace(-1, 1, 8, dtype=np.float32)}
    models = {name: _moved(current, 0.01 * n) for n, name in enumerate(("x", "y", "z"), 1)}
    there = _mean(models, current, strategy=strategy)
    here = _mean(models, current, strategy=strategy, privacy=Privacy(clipping_norm=1e3))
    np.testing.assert_allclose(here["a"], there["a"], rtol=1e-6)
    assert not np.array_equal(here["a"], current["a"])


def test_a_huge_update_is_one_clipping_norm_long_and_no_more() -> None:
    current = {"a": np.full(64, -1.0, np.float32)}
    models = {"east": current | {"a": current["a"] + np.float32(1e-4)}}
    models["north"] = {"a": np.full(64, 3.4e38, np.float32)}
    mean = _mean(models, current, weighing="equal", privacy=Privacy(clipping_norm=1.0))
    assert update_norm(mean, current) == pytest.approx(0.5, abs=1e-3)


def test_with_noise_all_weigh_the_same_whatever_they_claim() -> None:
    current = {"a": np.zeros(50_000, np.float32)}
    models = {"east": _moved(current, 1e-4), "north": _moved(current, 3e-4)}
    privacy = Privacy(clipping_norm=1.0, noise_multiplier=1e-4)
    noisy = _mean(models, current, privacy=privacy)
    assert float(noisy["a"].mean()) == pytest.approx(2e-4, rel=0.01)
    # By what they claim, north would count ten times as much.
    assert float(_mean(models, current)["a"].mean()) == pytest.approx(2.82e-4, rel=0.01)


@pytest.mark.parametrize("num_hospitals", [2, 5])
def test_noise_is_as_strong_as_the_number_of_averaged_hospitals_demands(num_hospitals: int) -> None:
    current = {"a": np.zeros((200, 100), np.float32)}
    models = {f"h{n}": _moved(current, 1e-5 * (n + 1)) for n in range(num_hospitals)}
    mean = _mean(models, current, privacy=Privacy(clipping_norm=3.0, noise_multiplier=0.5))
    # 20,000 draws: the standard deviation is known to half a per cent.
    assert float(mean["a"].std()) == pytest.approx(0.5 * 3.0 / num_hospitals, rel=0.03)
    assert abs(float(mean["a"].mean())) < 0.05


def test_nobody_who_knows_the_plan_can_draw_the_same_noise() -> None:
    current = {"a": np.zeros(1000, np.float32)}
    models = {"east": _moved(current, 1e-3), "north": _moved(current, 2e-3)}
    privacy = Privacy(clipping_norm=1.0, noise_multiplier=1.0)
    draws = []
    for _ in range(2):
        np.random.seed(7)
        draws.append(_mean(models, current, privacy=privacy)["a"])
        # And others who draw from NumPy's shared generator do not notice.
        assert np.random.random() == pytest.approx(0.07630828937395717)
    assert abs(np.corrcoef(draws[0], draws[1])[0, 1]) < 0.2


def test_the_shared_generator_is_put_back_after_an_error() -> None:
    np.random.seed(7)
    with pytest.raises(ZeroDivisionError), unguessable_noise():
        raise ZeroDivisionError
    assert np.random.random() == pytest.approx(0.07630828937395717)


def test_a_number_without_axes_is_clipped_too() -> None:
    # The correspondence network has such; Flower's clipping, which multiplies in place, has not.
    current = {"a": np.zeros(3, np.float32), "b": np.zeros((), np.float32)}
    models = {"east": current | {"b": np.asarray(8.0, np.float32)}, "north": _moved(current, 0.5)}
    mean = _mean(models, current, weighing="equal", privacy=Privacy(clipping_norm=1.0))
    assert mean["b"].shape == ()
    # 8 becomes 1; a half in four numbers has the norm 1 and stays.
    assert float(mean["b"]) == pytest.approx(0.75)


# What is spent ----------------------------------------------------------------------------------


def test_epsilon_of_one_mean_is_that_of_the_gaussian_mechanism() -> None:
    noise, delta = 4.0, 1e-5
    spent = spent_epsilon(Privacy(clipping_norm=1, noise_multiplier=noise, delta=delta), 1)
    assert spent is not None
    # Renyi: alpha / (2 z^2) + log(1 / delta) / (alpha - 1), at its best alpha (Mironov, 2017), is
    # an upper bound; the accountant's conversion is tighter.
    loose = min(
        a / (2 * noise**2) + math.log(1 / delta) / (a - 1) for a in np.arange(1.01, 200, 0.01)
    )
    assert 0.5 * loose < spent <= loose


def test_more_means_spend_more_and_more_noise_spends_less() -> None:
    def spent(noise: float, means: int) -> float:
        found = spent_epsilon(Privacy(clipping_norm=1, noise_multiplier=noise), means)
        assert found is not None
        return found

    assert spent(1.0, 0) == 0.0
    assert 0 < spent(1.0, 1) < spent(1.0, 2) < 2 * spent(1.0, 1)
    # Four means with twice the noise are one mean: both add up in squares.
    assert spent(2.0, 4) == pytest.approx(spent(1.0, 1))
    assert spent_epsilon(Privacy(clipping_norm=1), 3) is None


def test_without_the_package_that_reckons_nobody_is_asked(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dp_accounting", None)
    hospitals = FakeHospitals(NAMES)
    plan = make_plan(limits=LIMITS, privacy=NOISY)
    with pytest.raises(SettingsError, match=r"pip install 'oneslice\[dp\]'"):
        _run(hospitals, plan, tmp_path)
    assert hospitals.asked == []


# Rounds -----------------------------------------------------------------------------------------


class _Killed(BaseException):
    """The end of the server's process."""


def _run(hospitals: FakeHospitals, plan: FederationPlan, checkpoints: Path) -> RoundState:
    return run_federation(hospitals.grid(), plan, checkpoints, lambda _: None)


def test_epsilon_after_a_resume_is_that_of_an_uninterrupted_run(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(limits=LIMITS, privacy=NOISY)

    def kill(state: RoundState) -> None:
        if state.round == 2:
            raise _Killed

    with pytest.raises(_Killed):
        run_federation(FakeHospitals(NAMES).grid(), plan, tmp_path / "here", kill)
    resumed = _run(FakeHospitals(NAMES), plan, tmp_path / "here")
    whole = _run(FakeHospitals(NAMES), plan, tmp_path / "there")
    spent = [record.epsilon for record in resumed.history]
    assert spent == [record.epsilon for record in whole.history]
    assert spent == [spent_epsilon(plan.privacy, number) for number in (1, 2, 3)]
    assert whole.closing is not None
    assert whole.closing.epsilon is None, "scoring gives out no mean"
    # The noise is drawn anew, so the models differ.
    assert not np.array_equal(*(next(iter(state.arrays.values())) for state in (resumed, whole)))
    report = federation_report(plan, resumed).privacy
    assert report is not None
    assert (report.noisy_means, report.epsilon) == (3, spent[-1])
    assert report.epsilon_of_one == spent[0]


def test_a_round_that_is_done_again_is_counted_once_in_the_saved_history(
    make_plan: MakePlan, tmp_path: Path
) -> None:
    plan = make_plan(limits=LIMITS, privacy=NOISY)
    finished = _run(FakeHospitals(NAMES), plan, tmp_path)
    shutil.rmtree(tmp_path / "round-00003")
    again = _run(FakeHospitals(NAMES), plan, tmp_path)
    assert [r.epsilon for r in again.history] == [r.epsilon for r in finished.history]


def test_how_far_each_hospital_moved_is_recorded(make_plan: MakePlan, tmp_path: Path) -> None:
    plan = make_plan(limits=LIMITS)
    state = _run(FakeHospitals(NAMES), plan, tmp_path)
    before = first_state(plan).arrays
    for name, norm in state.history[0].update_norms.items():
        step = SCANS[name] / 8  # what the fake hospitals do: w becomes w * step + step
        sums = [((a.astype(float) * step + step - a) ** 2).sum() for a in before.values()]
        assert norm == pytest.approx(math.sqrt(sum(sums)), rel=1e-5)
    assert set(state.history[0].update_norms) == set(SCANS)
    assert [record.epsilon for record in state.history] == [None, None, None]


def test_a_model_that_did_not_move_is_left_out_where_updates_are_clipped(
    make_plan: MakePlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = fake_hospitals._update

    def lazy(name: str, request: RoundRequest, arrays: Arrays, misdeed: Any) -> LocalUpdate:
        update = honest(name, request, arrays, misdeed)
        return (
            LocalUpdate(dict(arrays), update.note) if update.arrays and name == "west" else update
        )

    monkeypatch.setattr(fake_hospitals, "_update", lazy)
    clipped = make_plan(limits=LIMITS, privacy={"clipping_norm": 1.0})
    state = _run(FakeHospitals(NAMES), clipped, tmp_path / "clipped")
    assert [(one.hospital, one.kind) for one in state.history[0].dropped] == [("west", "bad_reply")]
    assert "learned nothing" in state.history[0].dropped[0].reason
    state = _run(FakeHospitals(NAMES), make_plan(limits=LIMITS), tmp_path / "plain")
    assert "west" in state.history[0].averaged


@pytest.mark.parametrize(("noise", "judged_slices", "travel"), [
    ({"privacy": NOISY}, 8, False),
    ({}, 36, True),
    ({}, 37, False),
])  # fmt: skip
def test_scores_travel_between_hospitals_without_noise_and_if_they_are_of_enough_slices(
    make_plan: MakePlan,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    noise: dict[str, Any],
    judged_slices: int,
    travel: bool,
) -> None:
    honest, told = fake_hospitals._update, []

    def scoring(name: str, request: RoundRequest, arrays: Arrays, misdeed: Any) -> LocalUpdate:
        told.append(request.held_back_dice)
        update = honest(name, request, arrays, misdeed)
        scores = [{"task": "task1", "dice": {"organ": 0.5}, "cases": 9, "missed": 0}]
        note = Note.model_validate({**update.note.model_dump(), "scores": scores})
        return LocalUpdate(update.arrays, note)

    monkeypatch.setattr(fake_hospitals, "_update", scoring)
    training = {**make_plan().training.model_dump(), "judged_slices": judged_slices}
    plan = make_plan(limits=LIMITS, training=training, **noise)
    _run(FakeHospitals(NAMES), plan, tmp_path)  # four hospitals of nine slices each
    assert any(told) == travel
