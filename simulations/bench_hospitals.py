"""How the server's time and memory grow with the number of hospitals, on Ray with tiny models.

Every number of hospitals gets a process of its own: memory that was once taken is not given back.
"""

import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from common.settings_file import parse_settings
from server.round_state import RoundState
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
from simulations.process_memory import peak_memory
from simulations.progress import no_progress
from simulations.run import prepare
from simulations.scenario import Scenario, read_scenario

COUNTS = (1, 2, 4, 8, 16, 32, 64)
ROUNDS = 4


@dataclass(frozen=True)
class Growth:
    """One number of hospitals.

    Attributes:
        hospitals: how many.
        rounds: how many were run.
        server_s: the server's own seconds per round, in the middle: messages, checks, mean,
            checkpoint, tracker. Waiting for hospitals is not among them.
        wait_s: seconds per round until all hospitals had answered, in the middle.
        memory_mb: by how much the server's process grew at most, over what it held before.
    """

    hospitals: int
    rounds: int
    server_s: float
    wait_s: float
    memory_mb: float


def run_hospitals(out: Path, counts: tuple[int, ...] = COUNTS) -> list[Growth]:
    """Runs a small federation of each number of hospitals and prints a row for each."""
    rows = []
    print(f"{'hospitals':>9}{'rounds':>8}{'server s':>10}{'waiting s':>11}{'memory MB':>11}")
    for count in counts:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            row = process.submit(measure, out / f"hospitals-{count}-{time.time_ns()}", count)
            rows.append(row.result())
        one = rows[-1]
        print(
            f"{one.hospitals:>9}{one.rounds:>8}{one.server_s:>10.3f}{one.wait_s:>11.2f}"
            f"{one.memory_mb:>11.1f}",
            flush=True,
        )
    return rows


def measure(folder: Path, count: int) -> Growth:
    """One federation of so many hospitals, from its scans to its last round."""
    scenario = tiny_scenario(count)
    run = RunFolder(folder.resolve())
    stores = prepare(scenario, None, run.path, no_progress).stores
    federation = SimulatedFederation(
        scenario.plan, run, {name: store.folder for name, store in stores.items()}
    )
    ends: list[float] = []
    with peak_memory() as memory_mb:
        state = run_engine("ray", federation, lambda _: ends.append(time.perf_counter()))
    waits = [record.seconds["wait"] for record in state.history]
    own = [
        end - before - wait
        for before, end, wait in zip(ends[:-1], ends[1:], waits[1:], strict=False)
    ]
    _check_complete(state, count)
    return Growth(count, state.round, median(own), median(waits), memory_mb[-1])


def tiny_scenario(count: int) -> Scenario:
    """So many hospitals with two phantoms each, one training step a round."""
    values = json.loads(read_scenario("phantoms").model_dump_json())
    plan = values["plan"]
    plan["tasks"] = [{**plan["tasks"][0], "rounds": ROUNDS}]
    # Nothing is held back: a hospital whose two scans were would have nothing to train on.
    plan["training"].update(
        patch_size=[8, 20, 16],
        batch_size=1,
        steps_per_round=1,
        student_steps_per_round=1,
        held_back_share=0.0,
    )
    plan["limits"].update(hospitals=count, quorum=count, join_deadline_s=600, deadline_s=1800)
    sites = [f"hospital-{number:02d}" for number in range(count)]
    phantoms = {"shape": [16, 20, 16], "scans_per_site": 2, "test_scans": 1}
    changes = {"sites": sites, "deals": values["deals"][:1], "phantoms": phantoms}
    return parse_settings(Scenario, {**values, **changes}, f"{count} hospitals")


def _check_complete(state: RoundState, count: int) -> None:
    """A row of a run that left hospitals out would say less than it seems to."""
    for record in state.history:
        assert len(record.averaged) == count, record.dropped
