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
from common.kit import Invitation, JoinRequest, make_key, make_request, read_kit, write_kit
from server.cli import app
from server.consortium import Consortium
from server.members import read_members

Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free_ports: int) -> Run:
    """Runs a command in an empty folder with a consortium; its errors come through."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
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
    told = run("register", "request.json")
    (member,) = read_members(Consortium(Path("consortium")).members_file).members
    assert f"by telephone, compare its key: {member.fingerprint}" in told
    assert "takes effect with the next `oneslice coordinator up`" in told
    assert re.search(rf"hospital-a +registered until .* {member.fingerprint}", run("members"))

    assert "hospital-a: registered until" in run("renew", "hospital-a")
    assert "hospital-a: revoked" in run("revoke", "hospital-a")
    assert re.search(r"hospital-a +revoked on", run("members"))


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
