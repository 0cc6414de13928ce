"""A certificate that has ended, a clock that is a day off: named, then mended.

The real programs meet the real thing: OpenSSL an old certificate, Flower yesterday's signature.
"""

import hashlib
import json
import subprocess
import sys
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
from running_programs import (
    ONE_THREAD,
    Command,
    fails,
    make,
    running,
    service,
    superlink,
    wait_for,
)

from client.join import explain
from client.node import Node, node_of
from client.store.store import create_store
from client.supernode import supernode_command, supernode_environment, write_programs
from common.log_reading import last_lines
from common.supervision import NUM_LAST_LINES
from server.certificates import SERVER_DAYS
from server.consortium import Consortium
from server.flower_control import node_states
from simulations.loopback import ONESLICE, free_port, oneslice

DAY_S = 86400.0
pytestmark = pytest.mark.timeout(300)
needs_nginx = pytest.mark.skipif(
    not Path("/usr/sbin/nginx").exists(), reason="needs nginx (Debian: nginx-light)"
)


def join_kit(folder: Path, consortium: Consortium, port: int) -> Node:
    """A hospital that has accepted its invitation; `port`: where it connects."""
    store, invitation = folder / "store", folder / "invitation.json"
    create_store(store, "north")
    where = ("--consortium", str(consortium.path))
    oneslice("coordinator", "invite", "north", "--out", str(invitation), *where)
    asked = json.loads(invitation.read_text())
    invitation.write_text(json.dumps({**asked, "port": port}))
    oneslice("hospital", "join-kit", str(invitation), "--store", str(store))
    return node_of(store, None)


def doctor(folder: Path) -> dict[str, dict[str, str]]:
    """What `hospital doctor` finds, the last of each name: the node is looked at after the store.

    Its exit status is 1: nothing is approved and no worker runs.
    """
    command = [ONESLICE, "hospital", "doctor", "--store", str(folder / "store"), "--quick"]
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return {one["check"]: one for one in json.loads(done.stdout)}


def contents(node: Node) -> dict[str, str]:
    """The files that the hospital knows its coordinator by."""
    kept = (node.invitation_file, node.ca_certificate, node.private_key, node.request_file)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


# Certificate ------------------------------------------------------------------------------------


@needs_nginx
def test_a_certificate_that_has_ended_is_named_and_renewed_by_the_coordinator_alone(
    folder: Path,
) -> None:
    ended_yesterday = datetime.now(UTC) - timedelta(days=SERVER_DAYS)
    consortium = make(folder, ended_yesterday)
    where = ("--consortium", str(consortium.path))
    node = join_kit(folder, consortium, consortium.read_settings().port)
    (told,) = fails("coordinator", "up", *where).splitlines()
    assert told.startswith("error: nothing was started: certificate: the server's certificate end")
    assert told.endswith("`oneslice coordinator renew`")
    assert not consortium.services_file.exists()

    nginx = service(consortium, "nginx")
    with running(nginx.command, folder / "nginx.log", dict(nginx.env)):
        wait_for(nginx.ready, folder / "nginx.log")
        check = doctor(folder)["certificate"]
        assert check["problem"] == "its certificate is over"
        assert "`oneslice coordinator renew`" in check["what_to_do"]
        join = (ONESLICE, "hospital", "join", "--store", str(folder / "store"))
        with running(join, folder / "join.log", ONE_THREAD):
            wait_for(lambda: "starting;" in (folder / "join.log").read_text(), folder / "join.log")
        assert "its certificate is over" in (folder / "join.log").read_text()

    before = contents(node)
    assert "no hospital need do anything" in oneslice("coordinator", "renew", *where)
    with running(nginx.command, folder / "nginx.log", dict(nginx.env)):
        wait_for(nginx.ready, folder / "nginx.log")
        checks = doctor(folder)
    assert (checks["certificate"]["problem"], checks["clock"]["problem"]) == ("", "")
    assert contents(node) == before


# Clock ------------------------------------------------------------------------------------------

# Flower takes the time of a signature from its module `date`, and its web server from `time`.
WITH_CLOCK_OFF = """
import datetime, runpy, sys, time
from types import SimpleNamespace
from flwr.supercore import date
off_s, right = float(sys.argv[1]), time.time

class Off(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=off_s)

date.datetime = SimpleNamespace(datetime=Off, UTC=datetime.UTC)
time.time = lambda: right() + off_s
# Some commands are `python -I FILE ARGUMENTS`.
sys.argv = sys.argv[4 if sys.argv[3] == "-I" else 2 :]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def clock_off(off_s: float, command: Command) -> Command:
    """The command of a Python program, in a process whose clock is ahead by so much."""
    return (sys.executable, "-c", WITH_CLOCK_OFF, str(off_s), *command)


def are_refused_for_their_clock(node: Node, folder: Path) -> None:
    """SuperNodes of tomorrow and yesterday."""
    with ExitStack() as stack:
        refused = {}
        for off_s in (DAY_S, -DAY_S):
            said = folder / f"supernode{off_s:+.0f}.log"
            command = clock_off(off_s, supernode_command(node, free_port()))
            refused[said] = stack.enter_context(running(command, said, supernode_environment(node)))
        for said, process in refused.items():
            process.wait(timeout=60)
            lines = last_lines(said, NUM_LAST_LINES)
            # Flower names no reason, and the exit status is 0.
            assert "SuperNode terminated gracefully" in "".join(lines)
            assert "a clock is off" in explain(tuple(lines))


def test_a_clock_that_is_a_day_off_is_refused_named_and_let_in_when_right(folder: Path) -> None:
    consortium = make(folder, datetime.now(UTC), proxy="own")
    node = join_kit(folder, consortium, consortium.read_settings().superlink_port)
    write_programs(node)
    node.flower_home.mkdir(exist_ok=True)
    log = folder / "superlink.log"
    with superlink(consortium, log):
        where = ("--consortium", str(consortium.path))
        oneslice("coordinator", "register", str(node.request_file), "--yes", *where)
        are_refused_for_their_clock(node, folder)
        assert set(node_states(consortium).values()) == {"registered"}
        assert doctor(folder)["clock"]["problem"] == ""
        said = folder / "supernode.log"
        command = clock_off(0.0, supernode_command(node, free_port()))
        with running(command, said, supernode_environment(node)):
            wait_for(lambda: set(node_states(consortium).values()) == {"online"}, said)
    with superlink(consortium, log, partial(clock_off, -DAY_S)):
        check = doctor(folder)["clock"]
    seconds, _, rest = check["found"].partition(" ")
    assert float(seconds) == pytest.approx(DAY_S, abs=60)
    assert rest == "s ahead of the coordinator's"
    assert check["problem"].startswith("Flower refuses signatures from more than 5 s ahead")
    assert check["what_to_do"] == "set both machines' clocks by NTP"
