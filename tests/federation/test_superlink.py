"""A real SuperLink with two SuperNodes and two hospital workers, all on loopback."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import tomli_w
from small_scenario import drift, small_scenario

from common.bundle import stage_bundle
from server.checkpoints import load_state
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
from simulations.progress import no_progress
from simulations.run import prepare

BIN = Path(sys.executable).parent


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def _running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    """A process and its children, ended together."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def scratch() -> Iterator[Path]:
    # A short path: the name of a Unix socket holds little more than a hundred letters.
    with tempfile.TemporaryDirectory(prefix="oneslice-") as folder:
        yield Path(folder)


@pytest.mark.timeout(420)
def test_superlink_reaches_the_same_weights_as_the_in_process_engine(scratch: Path) -> None:
    scenario = small_scenario()
    plan = scenario.plan
    prepared = prepare(scenario, None, scratch / "run", no_progress)
    reference_stores = prepare(scenario, None, scratch / "reference", no_progress).stores
    (scratch / "plan.toml").write_text(tomli_w.dumps(plan.model_dump(exclude_none=True)))

    port, env = _free_port(), {**os.environ, "FLWR_HOME": str(scratch / "flwr")}
    env["PATH"] = f"{BIN}{os.pathsep}{env['PATH']}"
    (scratch / "flwr").mkdir()
    (scratch / "flwr" / "config.toml").write_text(
        f'[superlink]\ndefault = "test"\n\n[superlink.test]\n'
        f'address = "127.0.0.1:{port}"\ninsecure = true\n'
    )
    with ExitStack() as stack:

        def start(name: str, *command: str) -> None:
            stack.enter_context(_running([*command], scratch / f"{name}.log", env))

        start(
            "superlink",
            str(BIN / "flower-superlink"),
            *("--insecure", "--host", "127.0.0.1", "--port", str(port)),
            *("--database", str(scratch / "state.db")),
            "--disable-runtime-dependency-installation",
        )
        for name, store in prepared.stores.items():
            door, secret = scratch / f"{name}.sock", scratch / f"{name}.secret"
            _approve(store.folder, scratch / "plan.toml", env)
            start(
                f"{name}-worker",
                *(str(BIN / "oneslice"), "hospital", "worker", "--store", str(store.folder)),
                *("--socket", str(door), "--secret-file", str(secret)),
            )
            _wait_for(lambda door=door: door.exists(), 60)
            start(
                f"{name}-supernode",
                str(BIN / "flower-supernode"),
                *("--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(_free_port())),
                "--node-config",
                f'hospital="{name}" worker="{door}" secret-file="{secret}"',
            )
        out = scratch / "run" / "out"
        _flwr(env, "run", _staged(scratch), "test", "--stream", "--run-config",
              f'plan="{scratch / "plan.toml"}" out="{out}"')  # fmt: skip
        listed = json.loads(_flwr(env, "list", "test", "--format", "json"))
        logs = "\n".join(path.read_text()[-3000:] for path in scratch.glob("*.log"))
        assert listed["runs"][0]["status"] == "finished:completed", logs

    reached = load_state(RunFolder(out).checkpoints, plan)
    assert reached is not None
    assert reached.closing is not None
    folders = {name: store.folder for name, store in reference_stores.items()}
    expected = run_engine(
        "in-process",
        SimulatedFederation(plan, RunFolder(scratch / "reference" / "out"), folders),
        lambda _: None,
    )
    assert {n.hospital for n in reached.history[-1].notes} == set(scenario.sites)
    assert drift(reached.arrays, expected.arrays, plan) < 0.05


def _staged(scratch: Path) -> str:
    stage_bundle(scratch / "bundle" / "oneslice")
    return str(scratch / "bundle" / "oneslice")


def _approve(store: Path, plan: Path, env: dict[str, str]) -> None:
    asked = ("--store", str(store), "--plan", str(plan), "--by", "tester", "--yes")
    _output(env, str(BIN / "oneslice"), "hospital", "approve", *asked)


def _flwr(env: dict[str, str], *arguments: str) -> str:
    return _output(env, str(BIN / "flwr"), *arguments)


def _output(env: dict[str, str], *command: str) -> str:
    done = subprocess.run(
        command, env=env, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _wait_for(condition: object, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, "nothing came up in time"
        time.sleep(0.1)
