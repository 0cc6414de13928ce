"""A real deployment on this machine's loopback, set up by the commands that its users type.

A coordinator (SuperLink, proxy, MLflow) and hospitals (SuperNode, worker), each with folders and
keys of their own. Tests and benchmarks of the real thing are built on it.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import tomli_w

from common.errors import OneSliceError
from common.plan import FederationPlan
from common.quiet import QUIET
from server.progress import Progress, read_progress
from server.run_folder import RunFolder

ONESLICE = str(Path(sys.executable).parent / "oneslice")
FEDERATION = "loop"
COORDINATOR = "coordinator"
HALTED_WITHIN_S = 120.0


class DeploymentError(OneSliceError):
    """A command of the deployment failed; the message holds what it printed."""


@dataclass(frozen=True)
class Loopback:
    """The folders of a deployment; `folder` short, for the sake of the Unix sockets in it.

    `port` is the proxy's. `hospital_port`: where hospitals connect; the same, or that of a network
    in between. `processes`: the supervisors that run, by name.
    """

    folder: Path
    port: int
    hospital_port: int
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def consortium(self) -> Path:
        """The coordinator's folder."""
        return self.folder / "consortium"

    @property
    def run(self) -> RunFolder:
        """What the federation leaves."""
        return RunFolder(self.consortium / "runs" / FEDERATION)

    @property
    def plan_file(self) -> Path:
        """The plan, as everybody is given it."""
        return self.folder / "plan.toml"

    def store(self, hospital: str) -> Path:
        """A hospital's store."""
        return self.folder / hospital

    def coordinator(self, command: str, *arguments: str) -> str:
        """One of the coordinator's commands; what it prints."""
        return oneslice("coordinator", command, *arguments, "--consortium", str(self.consortium))

    def hospital(self, command: str, name: str, *arguments: str) -> str:
        """One of a hospital's commands; what it prints."""
        return oneslice("hospital", command, *arguments, "--store", str(self.store(name)))

    def make_consortium(self, plan: FederationPlan) -> None:
        """The coordinator's folder, with ports that are free here."""
        self.plan_file.write_text(
            tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)), encoding="utf-8"
        )
        self.coordinator(
            "init",
            *("--name", "loopback", "--address", "127.0.0.1", "--port", str(self.port)),
            *("--superlink-port", str(free_port()), "--mlflow-port", str(free_port())),
        )

    def admit(self, name: str) -> None:
        """Invitation, key, registration and consent of a hospital whose store is there."""
        invitation = self.folder / f"{name}.invitation.json"
        self.coordinator("invite", name, "--out", str(invitation))
        asked = json.loads(invitation.read_text(encoding="utf-8"))
        invitation.write_text(json.dumps({**asked, "port": self.hospital_port}), encoding="utf-8")
        self.hospital("join-kit", name, str(invitation))
        request = self.store(name) / "federation" / "request.json"
        self.coordinator("register", str(request), "--yes")
        self.hospital("approve", name, "--plan", str(self.plan_file), "--yes", "--by", "it")

    def launch(self, name: str) -> None:
        """Starts the supervisor of a hospital, or of the coordinator; again if it has ended."""
        if name == COORDINATOR:
            self.launch_command(name, "coordinator", "up", "--consortium", str(self.consortium))
        else:
            self.launch_command(name, "hospital", "join", "--store", str(self.store(name)))

    def launch_command(self, name: str, *command: str) -> None:
        """Starts a command that runs until it is halted."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [ONESLICE, *command],
                env={**os.environ, **QUIET},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def halt(self, name: str) -> None:
        """Tells a supervisor to stop, and waits until it has."""
        process = self.processes.pop(name)
        process.terminate()
        process.wait(timeout=HALTED_WITHIN_S)

    @contextmanager
    def running(self, *hospitals: str) -> Iterator[None]:
        """The coordinator and these hospitals, until the block ends."""
        try:
            for name in (COORDINATOR, *hospitals):
                self.launch(name)
            yield
        finally:
            for name in tuple(self.processes):
                self.halt(name)

    def start(self) -> None:
        """Starts or resumes the federation."""
        self.coordinator("start", str(self.plan_file), "--name", FEDERATION)

    def progress(self) -> Progress | None:
        """How far the federation is."""
        return read_progress(self.run.progress_file)

    def wait_until(self, holds: Callable[[Progress], bool], deadline_s: float) -> Progress:
        """Waits for the federation's progress to be so."""
        until = time.monotonic() + deadline_s
        while True:
            found = self.progress()
            if found is not None and holds(found):
                return found
            if time.monotonic() > until:
                raise DeploymentError(f"not reached in {deadline_s} s; the progress is {found}")
            time.sleep(0.2)


def oneslice(*arguments: str) -> str:
    """Runs the command as a user does; what it prints.

    Raises:
        DeploymentError: it ended with another code than 0.
    """
    done = subprocess.run(
        [ONESLICE, *arguments],
        env={**os.environ, **QUIET},
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        said = done.stdout + done.stderr
        raise DeploymentError(f"oneslice {' '.join(arguments)} ended {done.returncode}: {said}")
    return done.stdout


def free_port() -> int:
    """A port on which nobody listens at this moment."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
