"""The coordinator's commands about who belongs, from nothing to revoked."""

import json
import re
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import SettingsError
from common.kit import (
    Invitation,
    JoinRequest,
    key_fingerprint,
    make_key,
    make_request,
    public_text,
    read_kit,
    write_kit,
)
from server.cli import app
from server.consortium import Consortium
from server.members import read_members

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_ports: int) -> Run:
    """Runs a command in an empty folder with a consortium; its errors come through."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, typed: str = "", exit_code: int = 0) -> str:
        done = CliRunner().invoke(app, list(arguments), input=typed)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == exit_code, done.output
        return done.output

    invoke("init", "--name", "north", "--address", "127.0.0.1", "--port", str(free_ports))
    return invoke


@pytest.fixture
def free_ports() -> int:
    """Nothing listens beside it, so that the commands find no SuperLink."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return min(int(one.getsockname()[1]), 65000)


def _join(file: Path, request: Path) -> JoinRequest:
    made = make_request(read_kit(Invitation, file), make_key(), datetime.now(UTC))
    write_kit(made, request)
    return made


def test_a_hospitals_way_from_invited_to_revoked(run: Run, tmp_path: Path) -> None:
    told = run("invite", "hospital-a", "--out", "a.json")
    authority = re.search(r"read out the CA: ([0-9a-f ]+)", told)
    assert authority is not None
    invitation = read_kit(Invitation, tmp_path / "a.json")
    assert (invitation.consortium, invitation.address) == ("north", "127.0.0.1")
    assert invitation.ca_certificate == Path("consortium/ca.crt").read_text()
    assert re.search(r"hospital-a +invited until", run("members"))

    _join(tmp_path / "a.json", tmp_path / "request.json")
    told = run("register", "request.json", typed="y\n")
    (member,) = read_members(Consortium(Path("consortium")).members_file).members
    assert f"hospital-a's key: {member.fingerprint}\nWas this compared with" in told
    assert "takes effect with the next `oneslice coordinator up`" in told
    assert re.search(rf"hospital-a +registered until .* {member.fingerprint}", run("members"))

    assert "hospital-a: registered until" in run("renew", "hospital-a")
    assert "hospital-a: revoked" in run("revoke", "hospital-a")
    assert re.search(r"hospital-a +revoked on", run("members"))


def _invited(run: Run, folder: Path) -> str:
    """The fingerprint of the key in a request that waits for its registration."""
    run("invite", "hospital-a", "--out", "a.json")
    return key_fingerprint(_join(folder / "a.json", folder / "request.json").public_key)


def _state() -> str:
    (member,) = read_members(Consortium(Path("consortium")).members_file).members
    return member.state


@pytest.mark.parametrize("typed", ["n\n", "\n", ""])
def test_no_key_is_taken_that_nobody_compared(run: Run, tmp_path: Path, typed: str) -> None:
    fingerprint = _invited(run, tmp_path)
    told = run("register", "request.json", typed=typed, exit_code=1)
    assert f"hospital-a's key: {fingerprint}" in told
    assert _state() == "invited"
    run("register", "request.json", "--yes")
    assert _state() == "registered"


def test_a_key_is_taken_whose_fingerprint_was_read_out(run: Run, tmp_path: Path) -> None:
    fingerprint = _invited(run, tmp_path)
    other = key_fingerprint(public_text(make_key()))
    for wrong in (other, fingerprint[:-1], ""):
        with pytest.raises(SettingsError, match=r"have hospital-a send its request\.json again"):
            run("register", "request.json", "--fingerprint", wrong)
    assert _state() == "invited"
    run("register", "request.json", "--fingerprint", fingerprint.upper().replace(" ", ""))
    assert _state() == "registered"


def test_what_cannot_be_taken_is_refused_before_anybody_is_called(run: Run, tmp_path: Path) -> None:
    _invited(run, tmp_path)
    run("invite", "hospital-a")
    with pytest.raises(SettingsError, match="answers another invitation than the last one"):
        run("register", "request.json")


def test_members_as_json_name_all_ends(run: Run) -> None:
    run("invite", "hospital-a")
    found = json.loads(run("members", "--format", "json"))
    (member,) = found["members"]
    assert (member["hospital"], member["state"]) == ("hospital-a", "invited")
    assert member["days_left"] in (13, 14), "on the hour or after it"
    assert set(found["certificates"]) == {"authority", "server"}
    assert found["warnings"] == []


def test_init_again_changes_nothing(run: Run) -> None:
    with pytest.raises(SettingsError, match="holds the consortium north already"):
        run("init", "--name", "south", "--address", "127.0.0.1")
    assert Consortium(Path("consortium")).read_settings().name == "north"


def test_the_servers_certificate_is_renewed_for_the_addresses_as_they_are(run: Run) -> None:
    settings = Path("consortium/consortium.toml")
    authority = Path("consortium/ca.crt").read_bytes()
    settings.write_text(settings.read_text().replace('"127.0.0.1"', '"moved.example"'))
    assert "warning: the server's certificate is not good for moved.example" in run("members")
    with pytest.raises(SettingsError, match=r"not for moved\.example"):
        run("invite", "hospital-a")
    assert not Path("hospital-a.invitation.json").exists()
    assert "moved.example" in run("renew")
    assert Path("consortium/ca.crt").read_bytes() == authority
    run("invite", "hospital-a")
    assert read_kit(Invitation, Path("hospital-a.invitation.json")).address == "moved.example"


@pytest.mark.parametrize(
    "arguments",
    [
        ["invite", "x"],
        ["register", "request.json"],
        ["renew"],
        ["revoke", "x"],
        ["members"],
    ],
)
def test_another_folder_is_named(tmp_path: Path, run: Run, arguments: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"(found no consortium\.toml|request\.json cannot)"):
        run(*arguments, "--consortium", str(tmp_path))
