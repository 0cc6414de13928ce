"""How the SuperNode is started, where it meets the worker, and what would stop it."""

import os
import socket
import ssl
import stat
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from flwr.common.config import parse_config_args

from client.check import Check
from client.coordinator_checks import check_clocks, check_node
from client.join import explain, services
from client.join_kit import accept_invitation
from client.node import Node
from client.store.store import create_store
from client.supernode import (
    NEVER_HERE,
    make_socket_folder,
    shared_socket,
    supernode_command,
    supernode_environment,
    worker_socket,
    write_programs,
)
from common.errors import SettingsError
from common.kit import Invitation, write_kit
from server.certificates import issue_server_certificate, make_authority

NOW = datetime.now(UTC)


class Coordinator:
    """What answers at the coordinator's address: TLS, and a time in each answer."""

    def __init__(self, folder: Path, made: datetime = NOW, address: str = "127.0.0.1") -> None:
        self.authority = (folder / "ca.key", folder / "ca.crt")
        make_authority("trial", *self.authority, made)
        key, certificate = folder / "server.key", folder / "server.crt"
        issue_server_certificate(self.authority, key, certificate, [address], made)
        trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trust.load_cert_chain(certificate, key)
        self.server = HTTPServer(("127.0.0.1", 0), Answer)
        self.server.socket = trust.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, args=(0.01,)).start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    def invitation(self, **changes: object) -> Invitation:
        values = {
            "consortium": "trial",
            "hospital": "north",
            "address": "127.0.0.1",
            "port": self.port,
            "ca_certificate": self.authority[1].read_text(),
            "invitation": "0" * 32,
            "issued": NOW,
            "expires": NOW + timedelta(days=14),
        }
        return Invitation.model_validate({**values, **changes})


class Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """One whose certificate is in order."""
    (tmp_path / "coordinator").mkdir()
    running = Coordinator(tmp_path / "coordinator")
    yield running
    running.server.shutdown()
    running.server.server_close()


def joined(folder: Path, invitation: Invitation) -> Node:
    """A node with a key, in a folder whose name has a blank."""
    store, node = create_store(folder / "store", "north"), Node(folder / "a node")
    write_kit(invitation, folder / "invitation.json")
    accept_invitation(store, node, folder / "invitation.json", NOW)
    return node


def problems(node: Node, now: datetime | None = None) -> dict[str, Check]:
    return {one.check: one for one in check_node(node, now or datetime.now(UTC)) if one.problem}


# Programs ---------------------------------------------------------------------------------------


def test_every_program_of_flower_but_the_gate_refuses(tmp_path: Path) -> None:
    from flwr.supercore.constant import TASK_TYPE_TO_COMMAND

    node = Node(tmp_path / "a node")
    write_programs(node)
    assert {*NEVER_HERE, "flwr-clientapp"} == set(TASK_TYPE_TO_COMMAND.values())
    names = sorted(path.name for path in node.programs.iterdir())
    assert names == sorted([*NEVER_HERE, "flower-superexec", "flwr-clientapp"])
    for name in NEVER_HERE:
        done = subprocess.run([str(node.programs / name)], capture_output=True, check=False)
        assert (done.returncode, b"is not run at a hospital" in done.stderr) == (1, True)
    gate = [str(node.programs / "flwr-clientapp"), "--help"]
    # Packages of the same names in the current folder or in PYTHONPATH are not what is imported.
    trap = tmp_path / "trap"
    trap.mkdir()
    for name in ("flwr", "client", "json"):
        (trap / f"{name}.py").write_text("raise SystemExit('trapped')")
    env = {**supernode_environment(node), "PYTHONPATH": str(trap)}
    done = subprocess.run(gate, capture_output=True, text=True, cwd=trap, env=env, check=False)
    assert (done.returncode, "Run a Flower ClientApp" in done.stdout) == (0, True), done.stderr


def test_programs_are_written_anew_only_if_they_changed(tmp_path: Path) -> None:
    node = Node(tmp_path)
    write_programs(node)
    gate = node.programs / "flwr-clientapp"
    before = gate.stat().st_ino
    write_programs(node)
    assert gate.stat().st_ino == before
    gate.write_text("#!/bin/sh\n")
    write_programs(node)
    assert "gate.py" in gate.read_text()


def test_the_supernode_knows_little_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "FLWR_PRIVATE_X"):
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("ONESLICE_SUPERVISED", "mark")
    env = supernode_environment(Node(tmp_path))
    assert env["PATH"] == str(tmp_path / "bin"), "nothing but the gate is found by its name"
    assert env["ONESLICE_SUPERVISED"] == "mark"
    assert env["FLWR_TELEMETRY_ENABLED"] == "0"
    assert not {"PYTHONPATH", "AWS_SECRET_ACCESS_KEY", "FLWR_PRIVATE_X"} & set(env)


def test_flower_understands_the_command(tmp_path: Path, coordinator: Coordinator) -> None:
    node = joined(tmp_path, coordinator.invitation())
    command = supernode_command(node, 1234)
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--superlink"] == f"127.0.0.1:{coordinator.port}"
    assert options["--host"] == "127.0.0.1"
    told = parse_config_args([options["--node-config"]])
    assert told["hospital"] == "north"
    assert told["secret-file"] == str(node.worker_secret)
    assert told["worker"] == str(worker_socket(node))
    assert "--insecure" not in command
    odd = Node(tmp_path / 'it\'s "odd"')
    odd.path.mkdir()
    write_kit(coordinator.invitation(address="2001:db8::1"), odd.invitation_file)
    with pytest.raises(SettingsError, match="both kinds of quotes"):
        supernode_command(odd, 1234)
    write_kit(coordinator.invitation(address="2001:db8::1"), node.invitation_file)
    assert f"[2001:db8::1]:{coordinator.port}" in supernode_command(node, 1234)


def test_without_an_invitation_nothing_starts(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="join-kit INVITATION"):
        supernode_command(Node(tmp_path), 1234)


# The socket -------------------------------------------------------------------------------------


def test_a_socket_with_a_long_path_moves_to_a_short_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = Node(Path("/n")), Node(tmp_path / ("long" * 30))
    assert worker_socket(short) == short.worker_socket
    assert len(os.fsencode(worker_socket(long))) < 100
    assert worker_socket(long) == worker_socket(Node(long.path / ".." / long.path.name))
    assert worker_socket(long) != worker_socket(Node(long.path / "other"))
    path = tmp_path / "moved" / "worker.sock"
    make_socket_folder(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (tmp_path / "linked").symlink_to(path.parent)
    with pytest.raises(SettingsError, match="belongs to another user"):
        make_socket_folder(tmp_path / "linked" / "worker.sock")
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    with pytest.raises(SettingsError, match="belongs to another user"):
        make_socket_folder(path)


def test_two_users_meet_in_the_nodes_folder_or_not_at_all(tmp_path: Path) -> None:
    short, long = Node(Path("/n")), Node(tmp_path / ("long" * 30))
    assert shared_socket(short) == short.worker_socket
    with pytest.raises(SettingsError, match="choose a node's folder with a shorter path"):
        shared_socket(long)


# Checks -----------------------------------------------------------------------------------------


def test_a_node_that_joined_nothing(tmp_path: Path) -> None:
    found = problems(Node(tmp_path))
    assert list(found) == ["invitation"]
    assert "join-kit" in found["invitation"].what_to_do


def test_a_coordinator_in_order(tmp_path: Path, coordinator: Coordinator) -> None:
    node = joined(tmp_path, coordinator.invitation())
    assert set(problems(node)) == {"approvals", "worker"}
    checks = {one.check: one for one in check_node(node, datetime.now(UTC))}
    assert "for 395 more days" in checks["certificate"].found
    node.private_key.unlink()
    assert problems(node)["key"].found == "node.key is missing"


@pytest.mark.parametrize(("exempt", "is_told"), [("", True), ("127.0.0.1", False)])
def test_a_proxy_that_only_the_supernode_goes_through_is_told(
    tmp_path: Path,
    coordinator: Coordinator,
    monkeypatch: pytest.MonkeyPatch,
    exempt: str,
    is_told: bool,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    monkeypatch.setenv("NO_PROXY", exempt)
    monkeypatch.delenv("no_proxy", raising=False)
    node = joined(tmp_path, coordinator.invitation())
    checks = {one.check: one for one in check_node(node, datetime.now(UTC))}
    assert ("the proxy in HTTPS_PROXY" in checks["port"].found) == is_told


def test_a_certificate_that_is_not_to_be_trusted_is_explained(
    tmp_path: Path, coordinator: Coordinator
) -> None:
    node = joined(tmp_path, coordinator.invitation(address="localhost"))
    assert "certificate" not in problems(node)
    # Another authority: somebody else who answers at the address.
    (tmp_path / "other").mkdir()
    make_authority("other", tmp_path / "other" / "ca.key", node.ca_certificate, NOW)
    assert "not signed by this consortium" in problems(node)["certificate"].problem


@pytest.mark.parametrize(
    ("made", "problem"),
    [
        (NOW - timedelta(days=397), "its certificate is over"),
        (NOW + timedelta(days=3), "its certificate is not valid yet"),
        (NOW - timedelta(days=380), "it is over soon"),
    ],
)
def test_a_certificate_of_another_time(tmp_path: Path, made: datetime, problem: str) -> None:
    running = Coordinator(tmp_path, made)
    try:
        node = joined(tmp_path, running.invitation())
        assert problems(node)["certificate"].problem == problem
    finally:
        running.server.shutdown()
        running.server.server_close()


def test_a_certificate_for_another_address(tmp_path: Path, coordinator: Coordinator) -> None:
    node = joined(tmp_path, coordinator.invitation(address="127.0.0.2"))
    assert problems(node)["port"].what_to_do.startswith("is the coordinator up?")
    coordinator.server.server_close()
    node = joined(tmp_path, coordinator.invitation(address="no-such-host.invalid"))
    assert "no address here" in problems(node)["address"].problem


def test_clocks_that_differ_more_than_flower_takes() -> None:
    for ahead_s in (-300.0, -2.0, 0.0, 5.0):
        assert check_clocks(ahead_s).problem == ""
    for ahead_s in (-306.0, 7.0, 86_400.0):
        assert "305 s behind" in check_clocks(ahead_s).problem
    from flwr.common.constant import SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE

    assert (SYSTEM_TIME_TOLERANCE, TIMESTAMP_TOLERANCE) == (5, 300)


def test_a_clock_that_is_a_day_ahead_is_found(tmp_path: Path, coordinator: Coordinator) -> None:
    node = joined(tmp_path, coordinator.invitation())
    found = problems(node, datetime.now(UTC) + timedelta(days=1))
    assert found["clock"].what_to_do == "set both machines' clocks by NTP"
    assert 86_300 < int(found["clock"].found.split()[0]) <= 86_401


# Services ---------------------------------------------------------------------------------------


def test_the_supernode_is_told_no_store(tmp_path: Path, coordinator: Coordinator) -> None:
    node = joined(tmp_path, coordinator.invitation())
    worker, supernode = services(tmp_path / "store", node, "cpu")
    assert str(tmp_path / "store") in worker.command
    assert not [word for word in supernode.command if "store" in word]
    assert not worker.ready()


def test_looking_at_the_services_leaves_a_living_workers_socket(
    coordinator: Coordinator,
) -> None:
    with tempfile.TemporaryDirectory() as name:
        node = joined(Path(name), coordinator.invitation())
        with socket.socket(socket.AF_UNIX) as living:
            living.bind(str(worker_socket(node)))
            living.listen()
            worker, _ = services(Path(name) / "store", node, "cpu")
            assert worker.ready()
        assert not worker.ready(), "what a killed worker left does not count"


def test_known_ends_of_a_log_are_explained() -> None:
    assert "send it request.json" in explain(("", "ERROR: Failed to activate SuperNode"))
    assert explain(("Segmentation fault",)) == ""
