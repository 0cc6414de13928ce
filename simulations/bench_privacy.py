"""What differential privacy of a hospital costs five hospitals: noise, epsilon, Dice."""

from common.settings_file import parse_settings
from simulations.bench_poisoning import CLEAN, Runs, poisoned_scenario
from simulations.progress import bars_on_terminal
from simulations.run import run_scenario
from simulations.scenario import Scenario

NOISES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 1.0)


def run_privacy(runs: Runs) -> None:
    """Runs one federation for each strength of the noise and prints a row for each."""
    print(f"{'noise':>8}{'epsilon of one':>16}{'epsilon of all':>16}{'mean Dice':>11}")
    for noise in NOISES:
        scenario = noisy_scenario(runs, noise)
        kind = "hippocampus" if runs.data else "phantoms"
        with bars_on_terminal() as progress:
            folder = runs.out / f"privacy-{kind}-{noise:g}-{runs.seed}"
            report = run_scenario(scenario, runs.data, folder, progress=progress)
        assert report.privacy is not None
        assert report.segmenter is not None
        spent = [report.privacy.epsilon_of_one, report.privacy.epsilon]
        words = "".join(f"{'none' if one is None else format(one, '.3g'):>16}" for one in spent)
        print(f"{noise:>8g}{words}{report.segmenter.mean_dice or 0.0:>11.4f}", flush=True)


def noisy_scenario(runs: Runs, noise: float) -> Scenario:
    """The clipped arm of the poisoning bench with noise, and nobody who poisons."""
    values = poisoned_scenario(runs, "FedAvg, clipped", CLEAN).model_dump()
    values["plan"]["privacy"]["noise_multiplier"] = noise
    return parse_settings(Scenario, values, f"noise {noise:g}")
