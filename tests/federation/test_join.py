"""A real SuperLink with TLS and authentication, a hospital that joins it, and code that arrives."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import tomli_w
from small_scenario import small_scenario

from client.check import Check
from client.coordinator_checks import check_node
from client.join_kit import accept_invitation
from client.node import Node
from client.store.store import create_store
from client.supernode import free_port
from common.bundle import stage_bundle
from common.kit import Invitation, write_kit
from common.quiet import QUIET
from server.certificates import issue_server_certificate, make_authority

BIN = Path(sys.executable).parent
# A ServerApp that greets its one hospital and writes down what came back.
SERVER_APP = """
import time
from pathlib import Path
from flwr.app import Message
from flwr.serverapp import ServerApp
from common.messages import content_to_update, request_to_content
from common.plan import FederationPlan
from common.settings_file import read_settings
from common.updates import RoundRequest
app = ServerApp()

@app.main()
def main(grid, context):
    while not list(grid.get_node_ids()):
        time.sleep(0.5)
    (node,) = grid.get_node_ids()
    plan = read_settings(FederationPlan, Path(context.run_config["plan"]))
    hello = request_to_content(RoundRequest(action="hello", plan=plan, round=0), {})
    asked = Message(hello, node, "query")
    (reply,) = grid.send_and_receive([asked], timeout=150)
    if reply.has_error():
        said = reply.error.reason
    else:
        note = content_to_update(reply.content).note
        said = f"{note.outcome} {note.reason}"
    Path(context.run_config["out"]).write_text(said)
"""
MARKER = "\n__import__('pathlib').Path({path!r}).touch()\n"


@contextmanager
def running(command: list[str], log: Path, env: dict[str, str]) -> Iterator[None]:
    """A process and its children, ended together."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env=env, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for(condition: Callable[[], bool], seconds: float, told: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, told()
        time.sleep(0.2)


class Federation:
    """A coordinator's SuperLink and one hospital that joined it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack, self.port = folder, stack, free_port()
        self.env = {**os.environ, **QUIET, "FLWR_HOME": str(folder / "flwr")}
        self.env["PATH"] = f"{BIN}{os.pathsep}{self.env['PATH']}"
        self.store = create_store(folder / "store", "north")
        self.node = Node(folder / "node")
        self.marker = folder / "marker"
        values = small_scenario().plan.model_dump(mode="json", exclude_none=True)
        (folder / "plan.toml").write_text(tomli_w.dumps(values))

    def start_superlink(self) -> None:
        """With its own authority, for registered keys only."""
        now, f = datetime.now(UTC), self.folder
        authority = (f / "ca.key", f / "ca.crt")
        make_authority("trial", *authority, now)
        issue_server_certificate(authority, f / "s.key", f / "s.crt", ["127.0.0.1"], now)
        (f / "flwr").mkdir()
        (f / "flwr" / "config.toml").write_text(
            f'[superlink]\ndefault = "trial"\n\n[superlink.trial]\n'
            f'address = "127.0.0.1:{self.port}"\nroot-certificates = "{f / "ca.crt"}"\n'
        )
        self.start(
            "superlink",
            *("flower-superlink", "--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-ca-certfile", str(f / "ca.crt"), "--ssl-certfile", str(f / "s.crt")),
            *("--ssl-keyfile", str(f / "s.key"), "--enable-supernode-auth"),
            *("--disable-runtime-dependency-installation", "--database", str(f / "link.db")),
        )

    def accept(self) -> None:
        """Makes the hospital's key and has it registered."""
        now = datetime.now(UTC)
        invitation = Invitation(
            consortium="trial",
            hospital="north",
            address="127.0.0.1",
            port=self.port,
            ca_certificate=(self.folder / "ca.crt").read_text(),
            invitation="0" * 32,
            issued=now,
            expires=now + timedelta(days=14),
        )
        write_kit(invitation, self.folder / "invitation.json")
        accept_invitation(self.store, self.node, self.folder / "invitation.json", now)

    def join(self) -> tuple[str, ...]:
        """Has the hospital join; the options that name it to its commands."""
        self.start_superlink()
        self.accept()
        checks: dict[str, Check] = {}

        def is_up() -> bool:
            checks.update({one.check: one for one in check_node(self.node, datetime.now(UTC))})
            return "clock" in checks

        wait_for(is_up, 60, self.logs)
        assert (checks["certificate"].problem, checks["clock"].problem) == ("", "")
        key = str(self.node.public_key)
        self.call("flwr", "supernode", "register", key, "trial", "--name", "north")
        hospital = ("--store", str(self.store.folder), "--node", str(self.node.path))
        self.start("join", "oneslice", "hospital", "join", *hospital)
        return hospital

    def start(self, name: str, *command: str) -> None:
        """A program in the background."""
        log = self.folder / f"{name}.log"
        self.stack.enter_context(running([str(BIN / command[0]), *command[1:]], log, self.env))

    def call(self, *command: str) -> str:
        """A program's output."""
        done = subprocess.run(
            [str(BIN / command[0]), *command[1:]],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + self.logs()
        return done.stdout

    def send(self, name: str, extra: str = "") -> str:
        """Has the coordinator run an app; what its hospital answered."""
        app = self.folder / name / "oneslice"
        if not app.exists():
            stage_bundle(app)
            (app / "server" / "app.py").write_text(SERVER_APP)
            client = app / "client" / "app.py"
            client.write_text(client.read_text() + MARKER.format(path=str(self.marker)) + extra)
        out = self.folder / f"{name}.txt"
        out.unlink(missing_ok=True)
        config = f'plan="{self.folder / "plan.toml"}" out="{out}"'
        self.call("flwr", "run", str(app), "trial", "--run-config", config)
        wait_for(out.exists, 150, self.logs)
        return out.read_text()

    def logs(self) -> str:
        """The end of everybody's log."""
        paths = [*self.folder.glob("*.log"), *self.node.logs.glob("*.log")]
        return "\n".join(f"--- {path.name}\n{path.read_text()[-3000:]}" for path in paths)


@pytest.fixture
def federation() -> Iterator[Federation]:
    # A short path: the name of a Unix socket holds little more than a hundred letters.
    with tempfile.TemporaryDirectory(prefix="oneslice-") as folder, ExitStack() as stack:
        yield Federation(Path(folder), stack)


@pytest.mark.timeout(420)
def test_code_that_nobody_approved_does_not_run(federation: Federation) -> None:
    hospital, node = federation.join(), federation.node

    said = federation.send("first")
    assert "is not approved at this hospital" in said, federation.logs()
    assert "oneslice hospital approve" in said
    assert str(federation.folder) not in said, "no path leaves"
    assert not federation.marker.exists(), "it was refused before anything of it ran"
    (refused,) = node.refused.glob("*.fab")
    assert refused.stem in said

    approve = ("oneslice", "hospital", "approve", *hospital, "--yes", "--by", "ines")
    approve = (*approve, "--bundle", str(refused))
    shown = federation.call(*approve, "--plan", str(federation.folder / "plan.toml"))
    assert "IS NOT what this hospital's own installation builds" in shown
    assert "it is what the coordinator sent last" in shown
    assert "WHAT WILL LEAVE THE BUILDING" in shown
    assert federation.send("first") == "greeted ", federation.logs()
    assert federation.marker.exists()
    assert list((node.flower_home / "unpacked").iterdir()) == []

    federation.marker.unlink()
    assert "is not approved" in federation.send("second", extra="# one line more\n")
    assert not federation.marker.exists()
    status = federation.call("oneslice", "hospital", "status", *hospital, "--format", "json")
    told = json.loads(status)["federation"]
    assert {one["name"]: one["state"] for one in told["services"]} == {
        "worker": "running",
        "supernode": "running",
    }
    assert (told["supervised"], told["asked"], len(told["refused"])) == (True, [], 1)
