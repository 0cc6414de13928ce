"""The authority and the server's certificate, as OpenSSL and Python's ssl see them."""

import socket
import ssl
import stat
import subprocess
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from common.errors import SettingsError
from server.certificates import (
    addresses_in,
    check_address,
    expiry,
    issue_server_certificate,
    make_authority,
)

NOW = datetime.now(UTC)
ADDRESSES = ("coordinator.example", "10.1.2.3", "fd00::5")


class Files:
    """A consortium's four files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = (folder / "ca.key", folder / "ca.crt")
        self.key, self.certificate = folder / "server.key", folder / "server.crt"

    def issue(self, addresses: tuple[str, ...] = ADDRESSES, now: datetime = NOW) -> None:
        issue_server_certificate(self.authority, self.key, self.certificate, addresses, now)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    made = Files(tmp_path)
    make_authority("north", *made.authority, NOW)
    made.issue()
    return made


def _openssl(*arguments: str) -> bool:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    return done.returncode == 0


def _verifies(files: Files, *asked: str) -> bool:
    strict = ("verify", "-x509_strict", "-purpose", "sslserver")
    authority = ("-CAfile", str(files.authority[1]))
    return _openssl(*strict, *authority, *asked, str(files.certificate))


@pytest.mark.parametrize(
    ("flag", "address", "holds"),
    [
        ("-verify_hostname", "coordinator.example", True),
        ("-verify_ip", "10.1.2.3", True),
        ("-verify_ip", "fd00::5", True),
        ("-verify_hostname", "localhost", True),
        ("-verify_ip", "127.0.0.1", True),
        ("-verify_hostname", "other.example", False),
        ("-verify_hostname", "sub.coordinator.example", False),
        ("-verify_ip", "10.1.2.4", False),
    ],
)
def test_it_is_good_for_its_addresses_alone(
    files: Files, flag: str, address: str, holds: bool
) -> None:
    assert _verifies(files, flag, address) is holds


def test_another_authority_does_not_vouch_for_it(files: Files, tmp_path: Path) -> None:
    make_authority("north", tmp_path / "other.key", tmp_path / "other.crt", NOW)
    other = ("verify", "-CAfile", str(tmp_path / "other.crt"))
    assert not _openssl(*other, str(files.certificate))


def _handshake(files: Files, name: str) -> str | None:
    """The error of a TLS handshake in which the client trusts the authority; None if it holds."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.authority[1]))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    near, far = socket.socketpair()

    def serve() -> None:
        try:
            with server.wrap_socket(far, server_side=True) as one:
                one.recv(1)
        except OSError:
            far.close()

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        with client.wrap_socket(near, server_hostname=name) as one:
            one.send(b"x")
        return None
    except ssl.SSLCertVerificationError as error:
        return error.verify_message
    finally:
        near.close()
        thread.join()


def test_a_client_connects_by_a_name_in_it_and_by_no_other(files: Files) -> None:
    assert _handshake(files, "coordinator.example") is None
    assert _handshake(files, "10.1.2.3") is None
    assert "mismatch" in (_handshake(files, "other.example") or "")


def test_a_certificate_that_ended_is_refused_by_clients(files: Files) -> None:
    files.issue(now=NOW - timedelta(days=397))
    assert "expired" in (_handshake(files, "coordinator.example") or "")
    assert expiry(files.certificate) < NOW


def test_how_long_they_hold(files: Files) -> None:
    assert expiry(files.authority[1]) - NOW > timedelta(days=3648)
    assert timedelta(days=395) < expiry(files.certificate) - NOW < timedelta(days=397)


def test_a_hospital_whose_clock_is_behind_takes_it(files: Files) -> None:
    behind = int((NOW - timedelta(hours=23)).timestamp())
    assert _verifies(files, "-attime", str(behind))


def test_renewed_by_the_same_authority_hospitals_need_nothing_new(files: Files) -> None:
    authority = [path.read_bytes() for path in files.authority]
    before = files.key.read_bytes()
    files.issue(addresses=("moved.example",), now=NOW + timedelta(days=300))
    assert [path.read_bytes() for path in files.authority] == authority
    assert files.key.read_bytes() != before
    assert addresses_in(files.certificate) == ("moved.example", "localhost", "127.0.0.1")
    later = int((NOW + timedelta(days=600)).timestamp())
    assert _verifies(files, "-verify_hostname", "moved.example", "-attime", str(later))


def test_keys_are_readable_by_their_owner_only(files: Files) -> None:
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (files.authority[0], files.key)}
    assert modes == {0o600}


def test_an_address_that_is_not_in_it_is_named(files: Files) -> None:
    check_address(files.certificate, "Coordinator.Example")
    check_address(files.certificate, "FD00::5")
    message = r"good for coordinator\.example, .*, not for other\.example: add it to `addresses`"
    with pytest.raises(SettingsError, match=message):
        check_address(files.certificate, "other.example")


def test_an_authority_that_ended_signs_nothing(files: Files) -> None:
    with pytest.raises(SettingsError, match="the authority ended on"):
        files.issue(now=NOW + timedelta(days=3651))


def test_a_key_of_another_authority_is_noticed(files: Files) -> None:
    make_authority("other", files.authority[0], files.folder / "other.crt", NOW)
    with pytest.raises(SettingsError, match=r"ca\.key is not the key of .*ca\.crt"):
        files.issue()


def test_an_authority_without_its_key_is_named(files: Files) -> None:
    files.authority[0].unlink()
    with pytest.raises(SettingsError, match=r"key .*ca\.key cannot be read"):
        files.issue()
    with pytest.raises(SettingsError, match=r"none\.crt cannot be read"):
        expiry(files.folder / "none.crt")
