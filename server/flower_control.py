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
# How Flower says it; its commands have no other sign of it.
_UNKNOWN_RUN, _ENDED_RUN = "Run ID not found", "Run is already finished"


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


def find_run(consortium: Consortium, run_id: str) -> FlowerRun | None:
    """The run of that number; None if the SuperLink does not know it, as after a lost database.

    Raises:
        ServiceError: the SuperLink does not answer.
    """
    try:
        # Without a number it tells of the newest 20 only.
        told = call_flower(consortium, "list", CONNECTION, "--run-id", run_id)
    except ServiceError as error:
        if _UNKNOWN_RUN in str(error):
            return None
        raise
    (run,) = told["runs"]
    return FlowerRun(
        run_id=str(run["run-id"]),
        status=str(run["status"]),
        details=str(run["status-details"]),
    )


def stop_run(consortium: Consortium, run_id: str) -> None:
    """Ends a run; what hospitals still compute for it is no longer waited for.

    One that has ended, or that the SuperLink does not know, is left as it is.

    Raises:
        ServiceError: the SuperLink does not answer.
    """
    try:
        call_flower(consortium, "stop", run_id, CONNECTION)
    except ServiceError as error:
        if _UNKNOWN_RUN not in str(error) and _ENDED_RUN not in str(error):
            raise


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
    text = " ".join((done.stdout + done.stderr).split())
    try:
        told: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    except ValueError:
        raise ServiceError(f"`{name}` failed: {text[-300:]}") from None
    if told.get("success") is not True:
        said = " ".join(str(told.get("error-message", text[-300:])).split())
        raise ServiceError(f"`{name}` failed: {said}")
    return told
