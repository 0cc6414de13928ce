"""members.json and a real SuperLink: who is registered comes in, who is revoked stays out."""

import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import ServiceError
from common.kit import Invitation, make_key, make_request, public_text
from common.whole_file import PRIVATE, write_whole
from server.consortium import Consortium, ConsortiumSettings, make_consortium
from server.flower_control import call_flower, find_run, node_states, stop_run
from server.members import changing_members, invite, read_members, register, revoke
from server.members_sync import (
    is_in_step,
    is_superlink_up,
    read_node_ids,
    register_with_superlink,
)

BIN = Path(sys.executable).parent
NOW = datetime.now(UTC)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@pytest.fixture
def consortium() -> Iterator[Consortium]:
    with tempfile.TemporaryDirectory(prefix="oneslice-") as folder:
        settings = ConsortiumSettings(
            name="north",
            addresses=("127.0.0.1",),
            port=_free_port(),
            superlink_port=_free_port(),
            mlflow_port=_free_port(),
        )
        yield make_consortium(Path(folder) / "consortium", settings, NOW)


@contextmanager
def _running(made: Consortium, log: Path, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as file:
        process = subprocess.Popen(
            [str(BIN / command[0]), *command[1:]],
            env=made.flower_environment(),
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _superlink(made: Consortium) -> tuple[str, ...]:
    files = (made.ca_certificate, made.server_certificate, made.server_key)
    flags = ("--ssl-ca-certfile", "--ssl-certfile", "--ssl-keyfile")
    tls = [str(part) for pair in zip(flags, files, strict=True) for part in pair]
    port = str(made.read_settings().superlink_port)
    return (
        *("flower-superlink", "--host", "127.0.0.1", "--port", port, *tls),
        *("--enable-supernode-auth", "--disable-runtime-dependency-installation"),
        *("--database", str(made.superlink_database)),
    )


def _supernode(made: Consortium, hospital: str) -> tuple[str, ...]:
    address = f"127.0.0.1:{made.read_settings().superlink_port}"
    return (
        *("flower-supernode", "--superlink", address, "--port", str(_free_port())),
        *("--root-certificates", str(made.ca_certificate)),
        *("--auth-supernode-private-key", str(made.path / f"{hospital}.key")),
    )


def _join(made: Consortium, hospital: str) -> None:
    key = make_key()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_whole(made.path / f"{hospital}.key", text, PRIVATE)
    _register(made, hospital, key)


def _register(made: Consortium, hospital: str, key: ec.EllipticCurvePrivateKey) -> None:
    with changing_members(made.members_file) as held:
        held[0], _, ticket = invite(held[0], hospital, NOW)
        invitation = Invitation(
            consortium="north",
            hospital=hospital,
            address="127.0.0.1",
            port=1,
            ca_certificate="",
            invitation=ticket.id,
            issued=NOW,
            expires=ticket.expires,
        )
        held[0], _ = register(held[0], make_request(invitation, key, NOW), NOW)


def _wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.3)


@pytest.mark.timeout(240)
def test_the_superlinks_list_follows_the_members(consortium: Consortium) -> None:
    log = consortium.path / "superlink.log"
    assert not is_superlink_up(consortium)
    with pytest.raises(ServiceError, match="`flwr supernode list` failed"):
        register_with_superlink(consortium)
    with _running(consortium, log, *_superlink(consortium)):
        _wait_for(lambda: is_superlink_up(consortium), 60, log)
        for hospital in ("hospital-a", "hospital-b"):
            _join(consortium, hospital)
        assert not is_in_step(consortium)
        told = register_with_superlink(consortium)
        assert told == ["hospital-a may connect", "hospital-b may connect"]
        assert is_in_step(consortium)
        assert register_with_superlink(consortium) == [], "and nothing is left to do"

        _check_revoked_stays_out(consortium, "hospital-a")
        # Invited again, with another key, it is in again.
        _join(consortium, "hospital-a")
        assert register_with_superlink(consortium) == ["hospital-a may connect"]
        assert len(node_states(consortium)) == 2


def _check_revoked_stays_out(consortium: Consortium, hospital: str) -> None:
    """A connected hospital that is revoked is put out, and its key does not come back in."""
    log, command = consortium.path / "node.log", _supernode(consortium, hospital)
    with _running(consortium, log, *command) as supernode:
        _wait_for(lambda: "online" in node_states(consortium).values(), 60, log)
        with changing_members(consortium.members_file) as held:
            held[0], _ = revoke(held[0], hospital, NOW)
        assert register_with_superlink(consortium) == [f"{hospital} is shut out"]
        assert list(node_states(consortium).values()) == ["registered"]
        _wait_for(lambda: supernode.poll() is not None, 90, log)
    with _running(consortium, log, *command) as supernode:
        _wait_for(lambda: supernode.poll() is not None, 60, log)
        assert supernode.returncode != 0
    assert list(node_states(consortium).values()) == ["registered"]


@pytest.mark.timeout(240)
def test_what_was_cut_off_or_lost_is_mended_or_named(consortium: Consortium) -> None:
    log, ids = consortium.path / "superlink.log", consortium.nodes_file
    with _running(consortium, log, *_superlink(consortium)):
        _wait_for(lambda: is_superlink_up(consortium), 60, log)
        _join(consortium, "hospital-a")
        register_with_superlink(consortium)
        known = ids.read_text()
        (node,) = node_states(consortium)

        # Killed between the registering and the writing down of the node's id.
        ids.write_text(known.replace(node, ""))
        assert not is_in_step(consortium)
        assert register_with_superlink(consortium) == []
        assert ids.read_text() == known

        # Somebody registered a node past members.json.
        stranger = consortium.path / "stranger.pub"
        stranger.write_text(public_text(make_key()))
        call_flower(consortium, "supernode", "register", str(stranger), "consortium")
        told = register_with_superlink(consortium)
        assert told == ["a node that is nobody's now is shut out"]
        assert list(node_states(consortium)) == [node]

        ids.unlink()
        with pytest.raises(ServiceError, match=r"knows 1 nodes, and .* is gone: restore it, or"):
            register_with_superlink(consortium)
        assert list(node_states(consortium)) == [node]
        ids.write_text(known)

        _let_years_pass(consortium)
        assert register_with_superlink(consortium) == [], "a wrong clock shuts nobody out"


def _let_years_pass(made: Consortium) -> None:
    with changing_members(made.members_file) as held:
        for member in held[0].members:
            past = member.model_copy(update={"expires": NOW - timedelta(days=366)})
            held[0] = held[0].with_member(past)


@pytest.mark.timeout(240)
def test_one_that_is_refused_holds_no_other_up_and_costs_none_its_key(
    consortium: Consortium,
) -> None:
    log, ids, key = consortium.path / "superlink.log", consortium.nodes_file, make_key()
    let_go = consortium.path / "let_go.pub"
    let_go.write_text(public_text(key))
    with _running(consortium, log, *_superlink(consortium)):
        _wait_for(lambda: is_superlink_up(consortium), 60, log)
        told = call_flower(consortium, "supernode", "register", str(let_go), "consortium")
        call_flower(consortium, "supernode", "unregister", str(told["node-id"]), "consortium")
        _register(consortium, "hospital-a", key)
        _join(consortium, "hospital-b")
        for _ in range(2):
            with pytest.raises(ServiceError, match=r"hospital-a could not be .*already in use"):
                register_with_superlink(consortium)
            assert not is_in_step(consortium)
        assert list(read_node_ids(ids).values()) == list(node_states(consortium))
        (hospital,) = [
            one.hospital
            for one in read_members(consortium.members_file).members
            if one.fingerprint in read_node_ids(ids)
        ]
        assert hospital == "hospital-b"


def test_a_run_that_nobody_knows_has_nothing_to_stop(consortium: Consortium) -> None:
    log = consortium.path / "superlink.log"
    with _running(consortium, log, *_superlink(consortium)):
        _wait_for(lambda: is_superlink_up(consortium), 60, log)
        assert find_run(consortium, "12345") is None
        stop_run(consortium, "12345")
    with pytest.raises(ServiceError, match="`flwr stop 12345` failed"):
        stop_run(consortium, "12345")
