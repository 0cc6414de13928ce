"""The arms and attacks of the poisoning bench, and one of each that takes seconds."""

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from small_scenario import small_scenario

from server.round_state import RoundState
from server.rounds import first_state
from server.run_folder import RunFolder
from simulations.bench_poisoning import (
    ARMS,
    ATTACKER,
    ATTACKS,
    CLEAN,
    SITES,
    Runs,
    poisoned_scenario,
)
from simulations.engines import SimulatedFederation, run_engine
from simulations.progress import no_progress
from simulations.run import prepare
from simulations.scenario import Scenario


@pytest.mark.parametrize("data", [None, Path("hippocampus")])
def test_every_arm_holds_and_differs_in_its_own_part_only(data: Path | None) -> None:
    runs = Runs(data, Path("out"))
    plain = poisoned_scenario(runs, "FedAvg", CLEAN).plan.model_dump()
    seen = set()
    for arm, attack in product(ARMS, ATTACKS):
        scenario = poisoned_scenario(runs, arm, attack)
        plan = scenario.plan.model_dump()
        assert {name for name in plan if plan[name] != plain[name]} == set(ARMS[arm])
        assert {fault.site for fault in scenario.faults} == (
            {ATTACKER} if attack != CLEAN else set()
        )
        assert scenario.sites == SITES
        seen.add(scenario.model_dump_json())
    assert len(seen) == len(ARMS) * len(ATTACKS), "no two are the same"
    other = poisoned_scenario(Runs(data, Path("out"), seed=5, rounds=3), "FedAvg", CLEAN).plan
    assert (other.seed, other.num_rounds) == (5, 3)


def _run(folder: Path, attacked: bool, strategy: dict[str, object]) -> tuple[Scenario, RoundState]:
    scenario = small_scenario(5, strategy=strategy)
    faults = [{"site": ATTACKER, "kind": "scaled", "factor": -20.0}] if attacked else []
    scenario = Scenario.model_validate({**scenario.model_dump(), "faults": faults})
    stores = {n: s.folder for n, s in prepare(scenario, None, folder, no_progress).stores.items()}
    federation = SimulatedFederation(scenario.plan, RunFolder(folder), stores, scenario.faults)
    return scenario, run_engine("in-process", federation, lambda _: None)


def test_the_attacker_turns_the_mean_round_and_not_the_median(tmp_path: Path) -> None:
    moved: dict[tuple[str, bool], np.ndarray] = {}
    for name, attacked in product(("FedAvg", "FedMedian"), (False, True)):
        folder = tmp_path / f"{name}-{attacked}"
        scenario, state = _run(folder, attacked, {"name": name, "weighing": "equal"})
        first = first_state(scenario.plan).arrays
        moved[name, attacked] = np.concatenate(
            [(state.arrays[key] - first[key]).ravel() for key in sorted(first)]
        )
        if attacked:
            norms = state.history[0].update_norms
            # What a coordinator sees of it: the attacker stands out.
            assert max(norms, key=lambda site: norms[site]) == ATTACKER

    def alike(name: str) -> float:
        return float(np.corrcoef(moved[name, False], moved[name, True])[0, 1])

    assert alike("FedAvg") < 0
    assert alike("FedMedian") > 0.5
