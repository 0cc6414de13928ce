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
from common.scans import SliceRef
from common.settings_file import parse_settings
from server.rounds import run_federation
from simulations.bench_hospitals import COUNTS, run_hospitals
from simulations.bench_late import run_late
from simulations.bench_memory import run_memory
from simulations.bench_poisoning import Runs, run_poisoning
from simulations.bench_privacy import run_privacy
from simulations.bench_speed import time_scans, time_volumes
from simulations.bench_students import compare_arms, load_finished
from simulations.bench_training import run_training
from simulations.interactive import InteractiveSettings, run_interactive
from simulations.interactive_table import to_json, to_text
from simulations.local_grid import LocalGrid
from simulations.progress import bars_on_terminal, no_progress
from simulations.propagation_scans import load_labelled_scans
from simulations.propagation_slices import best_slice, paint
from simulations.run import prepare, run_scenario
from simulations.scenario import Scenario, read_scenario

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

# Labels from painted slices alone are the scenario's own; the segmenter joins where its Dice on
# held-back slices has reached what a small one has in the stream's middle.
ALONE: dict[str, dict[str, Any]] = {
    "propagation": {"candidates": ["patches"], "segmenter_from": None},
    "correspondence": {"rounds": 0},
}
ALL_PARTS: dict[str, dict[str, Any]] = {
    "annotation": {"slice_choice": "doubt"},
    "propagation": {
        "candidates": ["patches", "correspondence", "registration"],
        "segmenter_from": 0.7,
    },
    "correspondence": {"rounds": 2, "steps": 75},
}


def _but(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """All parts with some settings changed."""
    return {name: {**ALL_PARTS[name], **changes.get(name, {})} for name in ALL_PARTS}


# What bounds the labels from both sides, and one part of the label engine off at a time.
LABEL_ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "full labels": {**ALONE, "annotation": {"slice_choice": "every"}},
    "painted slices alone": ALONE,
    "alone, cohort slices": {**ALONE, "annotation": {"slice_choice": "cohort"}},
    "alone, spread slices": {**ALONE, "annotation": {"slice_choice": "spread"}},
    "alone, centre slices": {**ALONE, "annotation": {"slice_choice": "centre"}},
    "all parts": ALL_PARTS,
    "all but slice choice": _but(annotation={"slice_choice": "spread"}),
    "all but learned": {
        **_but(propagation={"candidates": ["patches", "registration"]}),
        "correspondence": {"rounds": 0},
    },
    "all but falling weights": _but(propagation={"weight_per_slice": 1.0}),
    "all but refresh": _but(propagation={"refresh_gain": 1.0}),
}

# A step costs an eighth; the network reaches less.
SMALL: dict[str, dict[str, Any]] = {
    "segmenter": {"channels": [8, 16, 32, 64]},
    "training": {"patch_size": [16, 40, 32]},
}

Out = Annotated[Path, typer.Option(help="Finished runs are kept here.")]
Data = Annotated[Path, typer.Option(help="The folder of the hippocampus scans.")]
Small = Annotated[bool, typer.Option("--small", help="Half the width, small patches.")]


@app.command()
def labels(
    data: Data,
    out: Out = Path("runs/bench"),
    seeds: Annotated[int, typer.Option(help="How many draws of each arm.")] = 3,
    steps: Annotated[int, typer.Option(help="Training steps a round; 24 is its own.")] = 24,
    arms: Annotated[str, typer.Option(help="Only arms whose name holds this.")] = "",
    small: Small = False,
) -> None:
    """What each part of the label engine adds: test Dice of hippocampus_stream."""
    print(f"{'labels':<26}{'seeds':>6}{'mean Dice':>11}{'spread':>8}")
    for name, parts in LABEL_ARMS.items():
        if arms not in name:
            continue
        arm, changes = (f"small, {name}", parts | SMALL) if small else (name, parts)
        results = []
        for seed in range(seeds):
            scenario = _changed(read_scenario("hippocampus_stream"), changes, (10, steps), seed)
            folder = _folder_of(out, arm, (10, steps), seed)
            with bars_on_terminal() as progress:
                report = run_scenario(scenario, data, folder, progress=progress)
            assert report.segmenter is not None
            results.append(report.segmenter.mean_dice or 0.0)
        spread = stdev(results) if len(results) > 1 else 0.0
        print(f"{arm:<26}{len(results):>6}{mean(results):>11.4f}{spread:>8.4f}", flush=True)


@app.command()
def interactive(
    data: Data,
    out: Out = Path("runs/bench"),
    seeds: Annotated[int, typer.Option(help="How many draws of scans, slices, weights.")] = 1,
    steps: Annotated[int, typer.Option(help="Training steps in each round.")] = 250,
    scans: Annotated[int, typer.Option(help="How many scans to train on; 0: all.")] = 80,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the rows.")] = None,
) -> None:
    """Paint, train, ask where to paint next: how many slices until full labels add little."""
    settings = parse_settings(InteractiveSettings, {"steps": steps, "scans": scans}, "the options")
    rows = []
    for seed in range(seeds):
        plan = read_scenario("hippocampus_stream").with_seed(seed).plan
        with bars_on_terminal() as progress:
            rows += run_interactive(data, out, plan, settings, progress)
    if json_file is not None:
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(to_json(rows), encoding="utf-8")
    print(to_text(rows))


@app.command()
def speed(data: Data, out: Out = Path("runs/bench")) -> None:
    """How quickly labels are spread, and how that grows with slices and classes."""
    with bars_on_terminal() as progress:
        scans = load_labelled_scans(
            data, out / "speed", num_scans=0, seed=0, with_training=True, progress=progress
        )
    pairs = []
    for row in scans.training:
        reference = scans.reference(row)
        ref = SliceRef(row.scan_id, 0, best_slice(reference, 0))
        pairs.append(
            (scans.scan(row), paint(reference, ref, tuple(range(1, 1 + len(scans.names)))))
        )
    time_scans(pairs)
    time_volumes()


@app.command()
def late(
    data: Data,
    out: Out = Path("runs/bench"),
    seeds: Annotated[int, typer.Option(help="How many draws.")] = 3,
    rounds: Annotated[int, typer.Option(help="Rounds per stage; 10 is the scenario's own.")] = 10,
    steps: Annotated[int, typer.Option(help="Training steps a round; 24 is its own.")] = 24,
    small: Small = False,
) -> None:
    """A hospital that joins at the last stage with five scans: what it gains, what others lose."""
    changes, arm = (SMALL, "late small") if small else ({}, "late")
    for seed in range(seeds):
        scenario = _changed(read_scenario("hippocampus_late"), changes, (rounds, steps), seed)
        folder = _folder_of(out, arm, (rounds, steps), seed)
        with bars_on_terminal() as progress:
            run_late(scenario, data, folder, progress)


@app.command()
def training(
    data: Data,
    out: Out = Path("runs/bench"),
    repeats: Annotated[int, typer.Option(help="How many pairs of measurements.")] = 7,
    steps: Annotated[int, typer.Option(help="Training steps in each.")] = 24,
) -> None:
    """How quickly a hospital trains, beside a bare loop with the same network and batches."""
    with bars_on_terminal() as progress:
        run_training(data, out, repeats, steps, progress)


@app.command()
def memory(
    out: Out = Path("runs/bench"),
    rounds: Annotated[int, typer.Option(help="Rounds that one hospital answers.")] = 200,
) -> None:
    """Whether a hospital's process grows from round to round."""
    with bars_on_terminal() as progress:
        run_memory(out, rounds, progress)


@app.command()
def students(
    data: Data,
    out: Out = Path("runs/bench"),
    seeds: Annotated[int, typer.Option(help="How many runs and draws.")] = 3,
    steps: Annotated[
        int, typer.Option(help="Of each student; 240 is a hospital's in a run.")
    ] = 240,
    arms: Annotated[str, typer.Option(help="Only arms whose name holds this.")] = "",
) -> None:
    """What a student learns best from, and which: all of one run's segmenter and labels."""
    runs = {}
    for seed in range(seeds):
        scenario = read_scenario("hippocampus_stream").with_seed(seed)
        folder = out / f"{scenario.name}-{seed}"
        with bars_on_terminal() as progress:
            run_scenario(scenario, data, folder, progress=progress)
        runs[seed] = load_finished(folder, scenario.plan)
    compare_arms(runs, steps, arms)


@app.command()
def poisoning(
    data: Annotated[Path | None, typer.Option(help="The hippocampus; without: phantoms.")] = None,
    out: Out = Path("runs/bench"),
    seed: Annotated[int, typer.Option(help="Of dealing, slices, weights and batches.")] = 0,
    attacks: Annotated[str, typer.Option(help="Only attacks whose name holds this.")] = "",
    arms: Annotated[str, typer.Option(help="Only arms whose name holds this.")] = "",
    rounds: Annotated[int | None, typer.Option(help="More or fewer rounds.")] = None,
) -> None:
    """One of five hospitals spoils its model: what each strategy makes of that."""
    run_poisoning(Runs(data, out, seed, rounds), attacks, arms)


@app.command()
def privacy(
    data: Annotated[Path | None, typer.Option(help="The hippocampus; without: phantoms.")] = None,
    out: Out = Path("runs/bench"),
    seed: Annotated[int, typer.Option(help="Of dealing, slices, weights and batches.")] = 0,
) -> None:
    """What differential privacy of a hospital costs: noise, epsilon, Dice."""
    run_privacy(Runs(data, out, seed))


@app.command()
def hospitals(
    out: Out = Path("runs/bench"),
    most: Annotated[int, typer.Option(help="The largest number of hospitals.")] = COUNTS[-1],
) -> None:
    """How the server's time and memory grow with the number of hospitals."""
    run_hospitals(out, tuple(count for count in COUNTS if count <= most))


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


def _folder_of(out: Path, arm: str, length: tuple[int, int], seed: int) -> Path:
    rounds, steps = length
    return out / f"{arm.replace(' ', '-').replace(',', '')}-{rounds}x{steps}-{seed}"


def _changed(
    scenario: Scenario, changes: dict[str, dict[str, Any]], length: tuple[int, int], seed: int
) -> Scenario:
    """The scenario with other settings; `length` is rounds a stage and steps a round."""
    rounds, steps = length
    values = json.loads(scenario.with_seed(seed).model_dump_json())
    for section, settings in changes.items():
        values["plan"][section].update(settings)
    # The student learns from the segmenter and changes nothing about it.
    values["plan"]["training"].update(steps_per_round=steps, student_steps_per_round=0)
    for task in values["plan"]["tasks"]:
        task["rounds"] = rounds
    plan = FederationPlan.model_validate(values["plan"])
    return Scenario.model_validate({**values, "plan": plan})


if __name__ == "__main__":
    app()
