"""What the real thing costs and survives: `python -m simulations.bench_deployed`.

A coordinator with proxy, TLS and signed requests, and hospitals with SuperNode and worker, all on
this machine's loopback (simulations/loopback.py).
"""

import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

from client.store.audit import verify_audit
from client.store.rounds import latest_round
from client.store.store import open_store
from common.errors import OneSliceError
from common.plan import FederationPlan
from server.checkpoints import load_state
from server.round_state import RoundState
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
from simulations.loopback import COORDINATOR, Loopback, free_port
from simulations.process_tree import processes_below
from simulations.progress import no_progress
from simulations.random_kills import kill_one
from simulations.run import prepare
from simulations.scenario import Scenario, read_scenario

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
ROUND_WITHIN_S = 900.0
ROLES = ("flower-superlink", "flwr-serverapp")


@app.command()
def rounds(
    hospitals: Annotated[int, typer.Option(help="How many.")] = 3,
    number: Annotated[int, typer.Option("--rounds", help="How many, after the first.")] = 8,
    channels: Annotated[int, typer.Option(help="Of the top level; 900: about 100 MB.")] = 8,
) -> None:
    """Seconds a round costs beyond the hospitals' own work, and what memory the server holds."""
    scenario = tiny_scenario(hospitals, number + 1, channels)
    with deployed(scenario) as deployment:
        deployment.start()
        peaks = _watch(deployment, number + 1)
        state = _last_state(deployment, scenario.plan)
    megabytes = sum(array.nbytes for array in state.arrays.values()) / 1e6
    print(f"{hospitals} hospitals, {megabytes:.1f} MB of weights, {state.round} rounds")
    beyond = []
    for record in state.history[1:]:
        own_s = max(sum(note.seconds.values()) for note in record.notes)
        total_s = sum(record.seconds.values())
        beyond.append(total_s - own_s)
        print(f"  round {record.round}: {total_s:.1f} s, hospitals' own work {own_s:.1f} s")
    print(f"seconds per round beyond the hospitals' work  {mean(beyond):.1f}")
    for name, peak_bytes in sorted(peaks.items()):
        print(f"{name:<20} at most {peak_bytes / 1e6:.0f} MB resident")


@app.command()
def kills(
    number: Annotated[int, typer.Option("--kills", help="How many.")] = 100,
    hospitals: Annotated[int, typer.Option(help="How many.")] = 2,
    seed: Annotated[int, typer.Option(help="Of moments and victims.")] = 0,
) -> None:
    """Kills any process at random moments; the federation must end as if nothing had happened."""
    scenario = tiny_scenario(hospitals, number + 2, channels=4)
    chance, victims = random.Random(seed), Counter[str]()
    with deployed(scenario) as deployment:
        deployment.start()
        for count in range(1, number + 1):
            _wait_for_round(deployment, scenario.plan, count)
            time.sleep(chance.uniform(0, 12))
            victim = kill_one(deployment, chance)
            victims[victim] += 1
            print(f"{count:>4}  {victim}", flush=True)
        deployment.wait_until(lambda progress: progress.phase == "finished", ROUND_WITHIN_S)
        state = _last_state(deployment, scenario.plan)
        _check_stores(deployment, scenario)
        undisturbed = _undisturbed(deployment, scenario)
    numbers = [record.round for record in state.history]
    assert numbers == list(range(1, scenario.plan.num_rounds + 1)), numbers
    far = max(
        float(abs(state.arrays[name] - array).max()) for name, array in undisturbed.arrays.items()
    )
    for name, times in victims.most_common():
        print(f"{name:<24}{times:>4}")
    print(f"{state.round} rounds, each once; largest difference to an undisturbed run {far:.2g}")


def tiny_scenario(hospitals: int, num_rounds: int, channels: int) -> Scenario:
    """Phantoms of 16 x 20 x 16 voxels, one task, two training steps a round.

    A round counts with all hospitals only, so that whatever happens the weights come out the same.
    """
    values = read_scenario("phantoms").model_dump()
    size = {"channels": [channels, min(2 * channels, 1024)], "strides": [2], "residual_units": 1}
    limits = {"hospitals": hospitals, "quorum": hospitals, "deadline_s": 300, "patience_s": 3600}
    training = {"patch_size": [8, 20, 16], "batch_size": 2, "held_back_share": 0.3}
    values["plan"].update(
        name="tiny",
        tasks=[{**values["plan"]["tasks"][0], "rounds": num_rounds}],
        segmenter=size,
        student={**size, "channels": [2, 4]},
        training={**training, "steps_per_round": 2, "student_steps_per_round": 1},
        limits=limits,
    )
    values.update(
        name="tiny",
        sites=[f"hospital-{place}" for place in range(1, hospitals + 1)],
        deals=values["deals"][:1],
        phantoms={"shape": [16, 20, 16], "scans_per_site": 3, "test_scans": 1},
    )
    return Scenario.model_validate(values)


@contextmanager
def deployed(scenario: Scenario) -> Iterator[Loopback]:
    """The scenario's hospitals and a coordinator, running; all is removed in the end."""
    # A short path: the name of a Unix socket holds little more than a hundred letters.
    folder = Path(tempfile.mkdtemp(prefix="oneslice-"))
    port = free_port()
    deployment = Loopback(folder, port, port)
    try:
        stores = prepare(scenario, None, folder / "prepared", no_progress).stores
        for name, store in stores.items():
            shutil.copytree(store.folder, deployment.store(name))
        deployment.make_consortium(scenario.plan)
        for name in stores:
            deployment.admit(name)
        with deployment.running(*stores):
            yield deployment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _watch(deployment: Loopback, last_round: int) -> dict[str, int]:
    """The server's processes and the most memory each held until the federation ended."""
    peaks: dict[str, int] = {}
    until = time.monotonic() + last_round * ROUND_WITHIN_S
    while (progress := deployment.progress()) is None or progress.phase != "finished":
        if time.monotonic() > until:
            raise OneSliceError(f"not finished in time; the progress is {progress}")
        for one in processes_below(deployment.processes[COORDINATOR].pid):
            if one.name in ROLES:
                peaks[one.name] = max(peaks.get(one.name, 0), one.resident_bytes)
        time.sleep(0.5)
    return peaks


def _wait_for_round(deployment: Loopback, plan: FederationPlan, number: int) -> None:
    until = time.monotonic() + ROUND_WITHIN_S
    while not (deployment.run.checkpoints / f"round-{number:05d}").exists():
        if (state := load_state(deployment.run.checkpoints, plan)) and state.round >= number:
            return
        if time.monotonic() > until:
            raise OneSliceError(
                f"round {number} did not end within {ROUND_WITHIN_S:.0f} s; the progress is "
                f"{deployment.progress()}"
            )
        time.sleep(0.2)


def _last_state(deployment: Loopback, plan: FederationPlan) -> RoundState:
    state = load_state(deployment.run.checkpoints, plan)
    assert state is not None
    assert state.closing is not None
    return state


def _check_stores(deployment: Loopback, scenario: Scenario) -> None:
    """Every store holds the last round, and an audit log whose chain holds."""
    for name in scenario.sites:
        store = open_store(deployment.store(name))
        assert latest_round(store, scenario.plan.federation) == scenario.plan.num_rounds, name
        verify_audit(store)


def _undisturbed(deployment: Loopback, scenario: Scenario) -> RoundState:
    """The same federation in one process, from the same scans and slices."""
    folder = deployment.folder / "undisturbed"
    stores = {name: deployment.folder / "prepared" / "sites" / name for name in scenario.sites}
    federation = SimulatedFederation(scenario.plan, RunFolder(folder), stores)
    return run_engine("in-process", federation, lambda _: None)


if __name__ == "__main__":
    app()
