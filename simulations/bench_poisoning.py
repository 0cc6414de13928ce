"""One of five hospitals spoils its model: what each strategy makes of that.

Attacks: the update turned round (sign-flip), that tenfold, the update tenfold, classes swapped in
what is painted (label-flip), and a million scans claimed. All rounds, always by the same hospital.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from common.settings_file import parse_settings
from server.checkpoints import load_state
from server.run_folder import RunFolder
from simulations.progress import bars_on_terminal
from simulations.run import run_scenario
from simulations.scenario import Scenario, read_scenario

SITES = tuple(f"hospital-{letter}" for letter in "abcde")
ATTACKER = SITES[2]
CLEAN = "nobody"
ATTACKS: dict[str, dict[str, Any]] = {
    CLEAN: {},
    "sign-flip": {"kind": "scaled", "factor": -1.0},
    "sign-flip x10": {"kind": "scaled", "factor": -10.0},
    "scaled x10": {"kind": "scaled", "factor": 10.0},
    "label-flip": {"kind": "labels_swapped"},
    "claims": {"kind": "claims"},
}
# `clip` stands for the clipping norm that suits the scans: the middle of what honest ones move.
ARMS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedAvg, equal": {"strategy": {"weighing": "equal"}},
    "FedMedian": {"strategy": {"name": "FedMedian"}},
    "FedTrimmedAvg": {"strategy": {"name": "FedTrimmedAvg", "trimmed_share": 0.2}},
    "Krum": {"strategy": {"name": "Krum", "num_malicious": 1}},
    "MultiKrum": {"strategy": {"name": "MultiKrum", "num_malicious": 1, "num_selected": 4}},
    "FedAvg, clipped": {"strategy": {"weighing": "equal"}, "privacy": {"clipping_norm": "clip"}},
    "FedMedian, clipped": {
        "strategy": {"name": "FedMedian"},
        "privacy": {"clipping_norm": "clip"},
    },
}


@dataclass(frozen=True)
class Length:
    """How long an arm is: rounds, training steps of each, and the clipping norm for them."""

    rounds: int
    steps: int
    clip: float


@dataclass(frozen=True)
class Runs:
    """What runs and where: `data` is the hippocampus, none: phantoms; `out` keeps finished runs.

    `seed` draws the dealing, slices, weights and batches; `rounds` none: as many as the bench has.
    """

    data: Path | None
    out: Path
    seed: int = 0
    rounds: int | None = None


PHANTOMS, HIPPOCAMPUS = Length(8, 12, 1.4), Length(10, 14, 4.0)


def run_poisoning(runs: Runs, attacks: str, arms: str) -> None:
    """Runs every arm under every attack whose name holds the words; prints a row for each."""
    clean = _mean_dice(runs, "FedAvg", CLEAN)
    print(f"{'arm':<20}{'attack':<16}{'mean Dice':>10}{'to clean FedAvg':>17}{'honest norm':>13}")
    for attack in (name for name in ATTACKS if attacks in name):
        for arm in (name for name in ARMS if arms in name):
            dice, norm = _mean_dice(runs, arm, attack)
            print(
                f"{arm:<20}{attack:<16}{dice:>10.4f}{dice - clean[0]:>+17.4f}{norm:>13.2f}",
                flush=True,
            )


def poisoned_scenario(runs: Runs, arm: str, attack: str) -> Scenario:
    """One arm under one attack: five hospitals, one stage, no student."""
    data = runs.data
    values = json.loads(
        read_scenario("hippocampus_stream" if data else "phantoms").model_dump_json()
    )
    length = HIPPOCAMPUS if data else PHANTOMS
    plan = values["plan"]
    # Of the hippocampus half of the scans of one intensity, small patches and a network of half
    # the width: an arm takes a minute or two on a quiet core.
    stage = 1 if data else 0
    plan["tasks"] = [{**plan["tasks"][stage], "rounds": runs.rounds or length.rounds}]
    values["deals"] = [{**values["deals"][stage], **({"part": [1, 2]} if data else {})}]
    if data:
        plan["segmenter"]["channels"] = [8, 16, 32, 64]
        plan["training"].update(patch_size=[16, 40, 32], learning_rate=5e-3)
    plan["annotation"]["slice_choice"] = "cohort"
    plan["training"].update(steps_per_round=length.steps, student_steps_per_round=0)
    plan["limits"].update(hospitals=len(SITES), quorum=len(SITES))
    for section, settings in ARMS[arm].items():
        plan[section].update(
            {key: length.clip if value == "clip" else value for key, value in settings.items()}
        )
    values["sites"] = SITES
    values["faults"] = [{"site": ATTACKER, **ATTACKS[attack]}] if ATTACKS[attack] else []
    scenario = parse_settings(Scenario, values, f"{arm} against {attack}")
    return scenario.with_seed(runs.seed)


def _mean_dice(runs: Runs, arm: str, attack: str) -> tuple[float, float]:
    """The segmenter's mean test Dice, and how far honest hospitals move in the middle."""
    scenario = poisoned_scenario(runs, arm, attack)
    kind = "hippocampus" if runs.data else "phantoms"
    rounds = scenario.plan.num_rounds
    words = f"poison-{kind}-{arm}-{attack}-{rounds}-{runs.seed}".replace(",", "").replace(" ", "-")
    folder = (runs.out / words).resolve()
    with bars_on_terminal() as progress:
        report = run_scenario(scenario, runs.data, folder, progress=progress)
    state = load_state(RunFolder(folder).checkpoints, scenario.plan)
    assert state is not None
    assert report.segmenter is not None
    norms = [
        norm
        for record in state.history
        for name, norm in record.update_norms.items()
        if name != ATTACKER
    ]
    return report.segmenter.mean_dice or 0.0, median(norms)
