"""The arms of the privacy bench."""

from pathlib import Path

from simulations.bench_poisoning import CLEAN, Runs, poisoned_scenario
from simulations.bench_privacy import NOISES, noisy_scenario


def test_the_arms_differ_in_their_noise_alone() -> None:
    runs = Runs(None, Path("out"), seed=3)
    clipped = poisoned_scenario(runs, "FedAvg, clipped", CLEAN)
    assert noisy_scenario(runs, NOISES[0]) == clipped
    for noise in NOISES:
        plan = noisy_scenario(runs, noise).plan
        assert plan.privacy.noise_multiplier == noise
        quiet = plan.privacy.model_copy(update={"noise_multiplier": 0.0})
        assert plan.model_copy(update={"privacy": quiet}) == clipped.plan
