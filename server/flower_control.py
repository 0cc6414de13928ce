"""Flower's control commands: the one place that speaks to the SuperLink's control side.

They are run as Flower ships them, with the consortium's own settings. Their exit status says
nothing (`flwr run` exits with 0 when it failed), so what counts is their answer in JSON.
"""

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from common.errors import ServiceError
from common.settings_file import Settings
from server.consortium import CONNECTION, Consortium

COMMAND_S = 60


class FlowerRun(Settings):
    """A run as the SuperLink knows it.

    Attributes:
        run_id: Its number.
        status: pending, starting, running, or finished with how: `finished:failed`.
        details: Why it failed, in Flower's words; often empty.
    """

    run_id: str
    status: str
    details: str

    @property
    def is_finished(self) -> bool:
        """Whether its ServerApp has ended or was given up."""
        return self.status.startswith("finished")


def start_run(consortium: Consortium, plan_file: Path, out: Path) -> str:
    """Submits a federation; the run's number. Its ServerApp starts some seconds later.

    Raises:
        ServiceError: the SuperLink does not answer, or refuses.
    """
    tracking = f"sqlite:///{consortium.tracking_database.resolve()}"
    values = {"plan": plan_file.resolve(), "out": out.resolve(), "tracking": tracking}
    config = " ".join(f"{key}={json.dumps(str(value))}" for key, value in values.items())
    app = str(consortium.staged_app.resolve())
    told = call_flower(consortium, "run", app, CONNECTION, "--run-config", config)
    return str(told["run-id"])


def list_runs(consortium: Consortium) -> dict[str, FlowerRun]:
    """All runs that the SuperLink knows, by number.

    Raises:
        ServiceError: the SuperLink does not answer.
    """
    told = call_flower(consortium, "list", CONNECTION)
    runs = [
        FlowerRun(
            run_id=str(run["run-id"]),
            status=str(run["status"]),
            details=str(run["status-details"]),
        )
        for run in told["runs"]
    ]
    return {run.run_id: run for run in runs}


def stop_run(consortium: Consortium, run_id: str) -> None:
    """Ends a run; what hospitals still compute for it is no longer waited for.

    Raises:
        ServiceError: the SuperLink does not answer, or the run has ended before.
    """
    call_flower(consortium, "stop", run_id, CONNECTION)


def node_states(consortium: Consortium) -> dict[str, str]:
    """registered, online or offline, by the id of each node that is not unregistered.

    Raises:
        ServiceError: the SuperLink does not answer.
    """
    nodes = call_flower(consortium, "supernode", "list", CONNECTION)["nodes"]
    return {
        str(node["node-id"]): str(node["status"])
        for node in nodes
        if node["status"] != "unregistered"
    }


def call_flower(consortium: Consortium, *arguments: str) -> dict[str, Any]:
    """What a command of Flower answers in JSON.

    Raises:
        ServiceError: it fails, or the SuperLink does not answer in time.
    """
    name = shlex.join(["flwr", *arguments[:2]])
    try:
        done = subprocess.run(
            ["flwr", *arguments, "--format", "json"],
            env=consortium.flower_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ServiceError(f"`{name}`: the SuperLink did not answer within {COMMAND_S} s") from None
    text = (done.stdout + done.stderr).strip()
    try:
        told: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        raise ServiceError(f"`{name}` failed: {text[-300:]}") from None
    if told.get("success") is not True:
        raise ServiceError(f"`{name}` failed: {told.get('error-message', text[-300:])}".strip())
    return told
