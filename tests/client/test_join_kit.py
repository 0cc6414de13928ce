"""What a hospital makes of an invitation: its key stays, the request goes."""

import json
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from typer.testing import CliRunner

from client.cli import app
from client.join_kit import accept_invitation
from client.node import Node, node_of
from client.store.store import Store, create_store
from common.errors import SettingsError
from common.kit import (
    Invitation,
    certificate_fingerprint,
    check_request_signature,
    key_fingerprint,
    read_kit,
    write_kit,
)

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)


def _authority() -> str:
    key = ec.generate_private_key(ec.SECP384R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, NOW, NOW + timedelta(days=1))
    ).sign(key, hashes.SHA384())
    return certificate.public_bytes(serialization.Encoding.PEM).decode()


AUTHORITY = _authority()
INVITATION = Invitation(
    consortium="north",
    hospital="hospital-a",
    address="coordinator.example",
    port=8443,
    ca_certificate=AUTHORITY,
    invitation="0" * 32,
    issued=NOW,
    expires=NOW + timedelta(days=14),
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return create_store(tmp_path / "store", "hospital-a")


@pytest.fixture
def node(store: Store) -> Node:
    return node_of(store.folder, None)


def _file(folder: Path, **changes: object) -> Path:
    path = folder / "came.json"
    write_kit(INVITATION.model_copy(update=changes), path)
    return path


def test_the_key_is_made_here_and_never_in_the_request(
    tmp_path: Path, store: Store, node: Node
) -> None:
    made = accept_invitation(store, node, _file(tmp_path), NOW)
    assert made.new_key
    secret = node.private_key.read_text()
    key = serialization.load_ssh_private_key(secret.encode(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    request = node.read_request()
    check_request_signature(request)
    assert (request.hospital, request.invitation) == ("hospital-a", "0" * 32)
    assert made.key == key_fingerprint(request.public_key)
    assert made.authority == certificate_fingerprint(AUTHORITY)

    number = key.private_numbers().private_value
    inside = number.to_bytes(48, "big")
    for path in node.path.rglob("*"):
        if path.is_file() and path != node.private_key:
            data = path.read_bytes()
            assert b"PRIVATE" not in data
            assert inside not in data
            assert f"{number:x}".encode() not in data
    keys = {"hospital", "invitation", "public_key", "made", "software", "signature"}
    assert set(json.loads(node.request_file.read_text())) == keys


def test_only_the_owner_reads_the_key(tmp_path: Path, store: Store, node: Node) -> None:
    accept_invitation(store, node, _file(tmp_path), NOW)
    assert stat.S_IMODE(node.private_key.stat().st_mode) == 0o600
    assert stat.S_IMODE(node.path.stat().st_mode) == 0o700
    assert node.ca_certificate.read_text() == AUTHORITY
    assert node.read_invitation() == INVITATION


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="OpenSSH is not installed")
def test_the_public_key_is_the_private_ones_as_ssh_sees_it(
    tmp_path: Path, store: Store, node: Node
) -> None:
    accept_invitation(store, node, _file(tmp_path), NOW)
    told = subprocess.run(
        ["ssh-keygen", "-y", "-f", str(node.private_key)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert told.split()[:2] == node.public_key.read_text().split()[:2]
    assert node.public_key.read_text().strip() == node.read_request().public_key


def test_run_again_the_key_stays(tmp_path: Path, store: Store, node: Node) -> None:
    first = accept_invitation(store, node, _file(tmp_path), NOW)
    key = node.private_key.read_bytes()
    again = accept_invitation(store, node, _file(tmp_path, invitation="1" * 32), NOW)
    assert (again.new_key, again.key, node.private_key.read_bytes()) == (False, first.key, key)
    assert node.read_request().invitation == "1" * 32


def test_a_new_key_is_made_only_when_it_is_asked_for(
    tmp_path: Path, store: Store, node: Node
) -> None:
    first = accept_invitation(store, node, _file(tmp_path), NOW)
    again = accept_invitation(store, node, _file(tmp_path), NOW, new_key=True)
    assert again.new_key
    assert again.key != first.key
    check_request_signature(node.read_request())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hospital": "hospital-b"}, "invites hospital-b, this store is hospital-a's"),
        ({"expires": NOW}, r"ended on 2030-01-02 03:04 UTC, it is 2030-01-02 03:04: ask"),
        ({"software": "9.1.0"}, r"coordinator runs OneSlice 9\.1\.0, .*pip install oneslice==9"),
        ({"ca_certificate": AUTHORITY[:200]}, "was damaged on the way .*have it sent again"),
    ],
)
def test_an_invitation_that_does_not_fit_makes_nothing(
    tmp_path: Path, store: Store, node: Node, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        accept_invitation(store, node, _file(tmp_path, **changes), NOW)
    assert not node.path.exists()


def test_another_authority_does_not_replace_the_one_that_is_known(
    tmp_path: Path, store: Store, node: Node
) -> None:
    accept_invitation(store, node, _file(tmp_path), NOW)
    with pytest.raises(SettingsError, match="consortium north with another certificate authority"):
        accept_invitation(store, node, _file(tmp_path, ca_certificate=_authority()), NOW)
    assert node.ca_certificate.read_text() == AUTHORITY


@pytest.mark.parametrize("text", ["", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n"])
def test_a_damaged_key_is_named_and_stays(
    tmp_path: Path, store: Store, node: Node, text: str
) -> None:
    accept_invitation(store, node, _file(tmp_path), NOW)
    node.private_key.write_text(text)
    with pytest.raises(SettingsError, match=r"node\.key cannot be read .*--new-key"):
        accept_invitation(store, node, _file(tmp_path), NOW)
    assert node.private_key.read_text() == text


def test_without_an_invitation_the_next_step_is_named(node: Node) -> None:
    with pytest.raises(SettingsError, match=r"expected an accepted invitation .* join-kit"):
        node.read_invitation()


def test_the_command_tells_what_to_compare_and_what_to_send(tmp_path: Path, store: Store) -> None:
    soon = datetime.now(UTC) + timedelta(days=1)
    file, folder = _file(tmp_path, expires=soon), tmp_path / "elsewhere"
    arguments = ["join-kit", str(file), "--store", str(store.folder), "--node", str(folder)]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    request = Node(folder).read_request()
    assert read_kit(Invitation, Node(folder).invitation_file).hospital == "hospital-a"
    assert f"this hospital's key:  {key_fingerprint(request.public_key)}\n" in done.output
    assert f"the coordinator's CA: {certificate_fingerprint(AUTHORITY)}\n" in done.output
    assert str(Node(folder).request_file) in done.output
    assert "the key stays" in CliRunner().invoke(app, arguments).output
