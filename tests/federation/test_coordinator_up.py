"""`oneslice coordinator up` with the real SuperLink, nginx and MLflow, looked at from outside."""

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from common.processes import read_process
from common.supervision import ServiceState, read_services, stop_services
from server.consortium import Consortium, ConsortiumSettings, make_consortium
from server.flower_control import find_run
from server.nginx import FLEET
from server.wanted import MOST_STARTS, Wanted, alone, read_wanted, write_wanted

ONESLICE = Path(sys.executable).parent / "oneslice"
PROTOBUF = "application/protobuf"


def free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    for one in held:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in held]
    for one in held:
        one.close()
    return ports


def wait_for(claim: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + 120
    while not claim():
        assert time.monotonic() < deadline, told()
        time.sleep(0.2)


class Coordinator:
    """A consortium whose services run."""

    def __init__(self, folder: Path) -> None:
        port, superlink_port, mlflow_port = free_ports(3)
        self.settings = ConsortiumSettings(
            name="trial",
            addresses=("127.0.0.1",),
            port=port,
            superlink_port=superlink_port,
            mlflow_port=mlflow_port,
        )
        self.consortium = make_consortium(folder / "c", self.settings, datetime.now(UTC))
        self.log = folder / "up.log"
        with self.log.open("wb") as log:
            command = [str(ONESLICE), "coordinator", "up", "--consortium", str(folder / "c")]
            self.up = subprocess.Popen(command, stdout=log, stderr=log)

    def run(self, *arguments: str) -> str:
        command = [str(ONESLICE), "coordinator", *arguments]
        command += ["--consortium", str(self.consortium.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def services(self) -> dict[str, ServiceState]:
        found = read_services(self.consortium.services_file)
        return {} if found is None else {one.name: one for one in found.services}

    def are_running(self) -> bool:
        states = [one.state for one in self.services().values()]
        return states == ["running"] * 3

    def has_mlflow(self) -> bool:
        with socket.socket() as one:
            return one.connect_ex(("127.0.0.1", self.settings.mlflow_port)) == 0

    def told(self) -> str:
        logs = sorted(self.consortium.logs.glob("*.log"))
        texts = [f"--- {path.name}\n{path.read_text()[-2000:]}" for path in [self.log, *logs]]
        return "\n".join([str(self.services()), *texts])

    def federation(self, name: str) -> dict[str, Any]:
        path = self.consortium.run_folder(name).progress_file
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return found


@pytest.fixture(scope="module")
def coordinator() -> Iterator[Coordinator]:
    with tempfile.TemporaryDirectory(prefix="oneslice-") as folder:
        started = Coordinator(Path(folder))
        try:
            wait_for(started.are_running, started.told)
            # The supervisor does not wait for it, and it takes a while.
            wait_for(started.has_mlflow, started.told)
            yield started
        finally:
            started.up.terminate()
            started.up.wait(90)
            stop_services(started.consortium.services_file)


def tls(consortium: Consortium) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(consortium.ca_certificate))


def ask(coordinator: Coordinator, port: int, request: bytes) -> tuple[int, bytes]:
    """The status and the body's end that come for these very bytes; 0 if the door is shut."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        tls(coordinator.consortium).wrap_socket(plain, server_hostname="127.0.0.1") as one,
    ):
        one.sendall(request)
        came = b""
        while chunk := one.recv(65536):
            came += chunk
    first = came.split(b"\r\n", 1)[0].split(b" ")
    return (int(first[1]) if first[0].startswith(b"HTTP/") else 0), came


def post(target: str, content_type: str = PROTOBUF, body: bytes = b"") -> bytes:
    return (
        f"POST {target} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    ).encode() + body


def flower_paths(*sides: str) -> list[str]:
    """All paths of these sides of the SuperLink that the installed Flower names."""
    spec = find_spec("flwr")
    assert spec is not None
    assert spec.origin is not None
    sources = [path.read_text() for path in Path(spec.origin).parent.rglob("*.py")]
    pattern = re.compile(rf'"(/v1/(?:{"|".join(sides)})/[a-z-]+)"')
    return sorted({path for source in sources for path in pattern.findall(source)})


TRICKS = (
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/./../control/list-runs",
    "/v1/fleet/get-run/../../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/%2E%2E%2Fcontrol%2Flist-runs",
    "/v1/fleet%2f..%2fcontrol%2flist-runs",
    "/v1/fleet/%252e%252e/control/list-runs",
    "/v1/fleet/..%5ccontrol%5clist-runs",
    "/v1/fleet/..\\control\\list-runs",
    "/v1/fleet/get-run%00/../../control/list-runs",
    "/v1/fleet/get-run;/../../control/list-runs",
    "/v1/fleet/get-run%3b/../../control/list-runs",
    "//v1/control/list-runs",
    "/v1//control/list-runs",
    "/v1/control//list-runs",
    "/v1/%63ontrol/list-runs",
    "/V1/CONTROL/LIST-RUNS",
    "/v1/control/list-runs?/v1/fleet/get-run",
    "/v1/control/list-runs#/v1/fleet/get-run",
    "/v1/fleet/get-run/",
    "/v1/fleet/get-run/x",
    "/v1/fleet/../../../../v1/control/list-runs",
    "/",
    "/docs",
    "/redoc",
    "/openapi.json",
    "/health",
    "*",
    "127.0.0.1:80",
)


def test_nothing_but_fleet_paths_is_reached_from_outside(coordinator: Coordinator) -> None:
    port, inside = coordinator.settings.port, coordinator.settings.superlink_port
    superlink_log = coordinator.consortium.logs / "superlink.log"
    before = superlink_log.stat().st_size
    forbidden = flower_paths("control", "runtime")
    assert {"/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/pull-messages"} < set(
        forbidden
    )
    absolute = [
        f"{scheme}://{host}/v1/control/list-runs"
        for scheme in ("http", "https")
        for host in ("127.0.0.1", f"127.0.0.1:{inside}", f"localhost:{port}")
    ]
    answers = {
        target: ask(coordinator, port, post(target))[0]
        for target in (*forbidden, *TRICKS, *absolute)
    }
    assert set(answers.values()) <= {400, 403, 405}, answers
    for request in (
        b"GET /v1/control/list-runs\r\n\r\n",
        b"GET /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        f"CONNECT 127.0.0.1:{inside} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode(),
        # A second request hidden in the first one's body, for a reader who counts otherwise.
        b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        b"0\r\n\r\nPOST /v1/control/list-runs HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        status, came = ask(coordinator, port, request)
        assert status in {0, 400, 403, 405}, came
        assert status or b"fleet paths only" in came or b"400" in came, came
    # The SuperLink writes down every request that it sees.
    with superlink_log.open("rb") as log:
        log.seek(before)
        seen = log.read()
    assert b"/v1/control" not in seen
    assert b"/v1/runtime/pull-messages" not in seen


def test_the_same_control_path_is_there_on_loopback(coordinator: Coordinator) -> None:
    request = post("/v1/control/list-runs")
    status, came = ask(coordinator, coordinator.settings.superlink_port, request)
    assert status == 200, came
    assert ask(coordinator, coordinator.settings.port, request)[0] == 403


def test_the_twelve_fleet_paths_are_those_of_flower_and_reach_the_superlink(
    coordinator: Coordinator,
) -> None:
    paths = [f"/v1/fleet/{name}" for name in FLEET]
    assert sorted(paths) == flower_paths("fleet")
    for path in paths:
        # Asked in a language that the SuperLink does not speak, so that nothing happens there.
        status, came = ask(coordinator, coordinator.settings.port, post(path, "text/plain"))
        assert status == 415, came
        assert b"Unsupported Content-Type" in came


def test_a_body_larger_than_any_piece_is_refused(coordinator: Coordinator) -> None:
    request = (
        b"POST /v1/fleet/push-object HTTP/1.1\r\nHost: a\r\nContent-Length: 17000000\r\n"
        b"Connection: close\r\n\r\n"
    )
    assert ask(coordinator, coordinator.settings.port, request)[0] == 413


def test_old_tls_and_no_tls_are_refused(coordinator: Coordinator) -> None:
    context = tls(coordinator.consortium)
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    address = ("127.0.0.1", coordinator.settings.port)
    with (
        socket.create_connection(address, timeout=20) as plain,
        pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(address, timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as one,
    ):
        assert one.version() == "TLSv1.2"
    with socket.create_connection(address, timeout=20) as plain:
        plain.sendall(post("/v1/fleet/get-run"))
        assert plain.recv(65536).startswith(b"HTTP/1.1 400")


def test_only_the_proxy_is_reached_from_other_machines(coordinator: Coordinator) -> None:
    listening = {
        int(fields[1].rpartition(":")[2], 16): fields[1].rpartition(":")[0]
        for fields in map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
        if fields[3] == "0A"
    }
    settings, loopback, anywhere = coordinator.settings, "0100007F", "00000000"
    assert listening[settings.superlink_port] == loopback
    assert listening[settings.mlflow_port] == loopback
    assert listening[settings.port] == anywhere


def test_mlflow_answers(coordinator: Coordinator) -> None:
    with urllib.request.urlopen(
        f"http://127.0.0.1:{coordinator.settings.mlflow_port}/health", timeout=20
    ) as answer:
        assert answer.read() == b"OK"


PLAN = """
name = "tiny"
labels = [{ name = "organ", index = 1 }]
tasks = [{ name = "organ", classes = ["organ"], modality = "MR", plane = "axial", rounds = 1 }]
segmenter = { channels = [1, 2], strides = [2], residual_units = 0 }
student = { channels = [1, 2], strides = [2], residual_units = 0 }
training = { patch_size = [4, 4, 4] }
limits = { hospitals = 1, join_deadline_s = 3600 }
"""


def wait_for_server(coordinator: Coordinator, pid_before: int) -> None:
    """Until another server than that waits for its hospitals."""

    def waits() -> bool:
        found = coordinator.federation("first")
        return found.get("pid", pid_before) != pid_before and "there: none" in found["sentence"]

    wait_for(waits, coordinator.told)


def test_a_federation_is_started_kept_running_stopped_and_resumed(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN)
    assert "begins in a few seconds" in coordinator.run("start", str(plan), "--name", "first")
    wait_for_server(coordinator, 0)
    first = coordinator.federation("first")
    os.kill(first["pid"], signal.SIGKILL)
    wait_for_server(coordinator, first["pid"])
    second = coordinator.federation("first")
    assert second["run_id"] != first["run_id"]
    text = coordinator.run("status")
    assert "trial is up" in text
    assert "round 0 of 1, waiting" in text
    assert "hospitals are there: none" in text

    assert "stopped after round 0" in coordinator.run("stop", "first")
    wait_for(lambda: read_process(second["pid"]) is None, coordinator.told)
    assert "stopped after round 0" in coordinator.run("stop", "first"), "and it is no error"
    assert json.loads(coordinator.run("status", "first", "--format", "json"))["state"] == "stopped"
    assert "begins in a few seconds" in coordinator.run("resume", "first")
    wait_for_server(coordinator, second["pid"])
    assert "waiting" in coordinator.run("status", "first")


def test_a_server_that_nobody_wants_is_ended(coordinator: Coordinator) -> None:
    folder, living = coordinator.consortium.run_folder("first"), coordinator.federation("first")
    with alone(folder):
        # As if its start had not been written down any more, and then the one before was stopped.
        write_wanted(folder, Wanted(wanted="stopped", run_id="1"))
    wait_for(lambda: read_process(living["pid"]) is None, coordinator.told)
    ended = find_run(coordinator.consortium, living["run_id"])
    assert ended is not None
    assert ended.is_finished
    coordinator.run("resume", "first")
    wait_for_server(coordinator, living["pid"])


def test_a_federation_that_starts_in_vain_is_given_up(coordinator: Coordinator) -> None:
    folder = coordinator.consortium.run_folder("first")
    with alone(folder):
        wanted = read_wanted(folder)
        assert wanted is not None
        write_wanted(folder, wanted.model_copy(update={"starts": MOST_STARTS, "submitted": ""}))
    os.kill(coordinator.federation("first")["pid"], signal.SIGKILL)
    wait_for(lambda: "failed" in coordinator.run("status", "first"), coordinator.told)
    text = coordinator.run("status", "first")
    assert "given up after 5 starts without a new round: its server ended without a word" in text


def test_another_plan_under_the_same_name_is_refused(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("rounds = 1 ", "rounds = 2 "))
    command = [str(ONESLICE), "coordinator", "start", str(plan), "--name", "first"]
    command += ["--consortium", str(coordinator.consortium.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "different in tasks[0].rounds (1 there, 2 here)" in done.stderr


def test_what_is_killed_comes_back(coordinator: Coordinator) -> None:
    before = coordinator.services()
    for one in before.values():
        assert one.pid is not None
        os.kill(one.pid, signal.SIGKILL)
    wait_for(
        lambda: (
            coordinator.are_running()
            and all(
                one.restarts > before[one.name].restarts for one in coordinator.services().values()
            )
        ),
        coordinator.told,
    )
    assert ask(coordinator, coordinator.settings.port, post("/v1/fleet/get-run", "a/b"))[0] == 415
    text = coordinator.run("status")
    assert text.count("restarted 1 times, last: killed by SIGKILL") == 3, text


def test_a_second_one_is_refused(coordinator: Coordinator) -> None:
    command = [str(ONESLICE), "coordinator", "up"]
    command += ["--consortium", str(coordinator.consortium.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "it is up already" in done.stderr


def test_down_leaves_no_process(coordinator: Coordinator) -> None:
    found = read_services(coordinator.consortium.services_file)
    assert found is not None
    assert len(found.find_processes()) > 3
    assert "is down" in coordinator.run("down")
    assert found.find_processes() == []
    assert coordinator.up.wait(10) == 0
    assert "trial is down" in coordinator.run("status")
    for port in (coordinator.settings.port, coordinator.settings.superlink_port):
        with socket.socket() as one:
            assert one.connect_ex(("127.0.0.1", port)) != 0
