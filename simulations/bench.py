"""The comparisons behind docs/benchmarks.md: `make bench`, or `python -m simulations.bench`.

Finished runs are kept under --out, so a bench that was stopped goes on where it was.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated, Any

import typer

from client.app import Answer, NodeConfig, make_client_app
from client.local_round import Hospital, answer
from client.store.store import open_store
from common.plan import FederationPlan
from server.rounds import run_federation
from simulations.local_grid import LocalGrid
from simulations.progress import bars_on_terminal, no_progress
from simulations.run import prepare, run_scenario
from simulations.scenario import Scenario, read_scenario

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

# What the labels of a run can be made from: which slice, and how far the affinity carries it.
LABEL_ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "centre slice, alone": {
        "annotation": {"slice_choice": "centre"},
        "propagation": {"reach_slices": 0},
    },
    "random slice, alone": {
        "annotation": {"slice_choice": "random"},
        "propagation": {"reach_slices": 0},
    },
    "spread slices, alone": {"propagation": {"reach_slices": 0}},
    "spread slices, reach 1": {"propagation": {"reach_slices": 1}},
    "spread slices, reach 3": {"propagation": {"reach_slices": 3}},
}

Out = Annotated[Path, typer.Option(help="Finished runs are kept here.")]
Data = Annotated[Path, typer.Option(help="The folder of the hippocampus scans.")]


@app.command()
def labels(
    data: Data,
    out: Out = Path("runs/bench"),
    seeds: Annotated[int, typer.Option(help="How many draws of each arm.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds per stage; 10 is the scenario's own.")] = 10,
    arms: Annotated[str, typer.Option(help="Only arms whose name holds this.")] = "",
) -> None:
    """Which slices, and how far their labels reach: test Dice of hippocampus_stream."""
    print(f"{'labels':<26}{'seeds':>6}{'mean Dice':>11}{'spread':>8}")
    for arm, changes in LABEL_ARMS.items():
        if arms not in arm:
            continue
        results = []
        for seed in range(seeds):
            scenario = _changed(read_scenario("hippocampus_stream"), changes, rounds, seed)
            folder = _folder_of(out, arm, rounds, seed)
            with bars_on_terminal() as progress:
                report = run_scenario(scenario, data, folder, progress=progress)
            assert report.segmenter is not None
            results.append(report.segmenter.mean_dice or 0.0)
        spread = stdev(results) if len(results) > 1 else 0.0
        print(f"{arm:<26}{len(results):>6}{mean(results):>11.4f}{spread:>8.4f}", flush=True)


@app.command()
def engine(out: Out = Path("runs/bench")) -> None:
    """The in-process engine's own time per round, and how quick the command answers."""
    scenario = _one_step_scenario()
    folder = out / f"engine-{time.time_ns()}"
    stores = prepare(scenario, None, folder, no_progress).stores
    hospitals = [Hospital(open_store(store.folder)) for store in stores.values()]
    work_s: list[float] = []

    def answer_of(node_config: NodeConfig) -> Answer:
        hospital = hospitals[int(node_config["partition-id"])]

        def timed(request: bytes) -> bytes:
            started = time.perf_counter()
            reply = answer(hospital, request)
            work_s.append(time.perf_counter() - started)
            return reply

        return timed

    configs: dict[int, dict[str, str | int]] = {
        place + 1: {"partition-id": place} for place in range(len(hospitals))
    }
    grid = LocalGrid(make_client_app(answer_of), configs)
    started = time.perf_counter()
    state = run_federation(grid, scenario.plan, folder / "checkpoints", lambda _: None)
    own_s = time.perf_counter() - started - sum(work_s)
    print(f"rounds {state.round}, hospitals {len(hospitals)}, weights of the segmenter 0.6 M")
    print(f"seconds per round beyond the hospitals' work  {own_s / state.round:.3f}")
    for words in (["--help"], ["simulate", "--help"], ["hospital", "--help"]):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "oneslice", *words], check=True, capture_output=True)
        print(f"oneslice {' '.join(words):<20} {time.perf_counter() - started:.2f} s")


def _one_step_scenario() -> Scenario:
    """Phantoms with the networks of the hippocampus and one training step a round."""
    values = json.loads(read_scenario("phantoms").model_dump_json())
    large = json.loads(read_scenario("hippocampus_stream").model_dump_json())["plan"]
    values["plan"].update(segmenter=large["segmenter"], student=large["student"])
    changes = {"patch_size": [16, 32, 24], "steps_per_round": 1, "student_steps_per_round": 1}
    values["plan"]["training"].update(changes)
    return Scenario.model_validate(values)


def _folder_of(out: Path, arm: str, rounds: int, seed: int) -> Path:
    return out / f"{arm.replace(' ', '-').replace(',', '')}-{rounds}-{seed}"


def _changed(
    scenario: Scenario, changes: dict[str, dict[str, Any]], rounds: int, seed: int
) -> Scenario:
    """The scenario with some of its plan's settings changed."""
    values = json.loads(scenario.with_seed(seed).model_dump_json())
    for section, settings in changes.items():
        values["plan"][section].update(settings)
    # The student learns from the segmenter and changes nothing about it.
    values["plan"]["training"]["student_steps_per_round"] = 0
    for task in values["plan"]["tasks"]:
        task["rounds"] = rounds
    plan = FederationPlan.model_validate(values["plan"])
    return Scenario.model_validate({**values, "plan": plan})


if __name__ == "__main__":
    app()
