"""Invitations and requests: what they hold, what they prove, and that damage shows."""

import json
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from common.errors import SettingsError
from common.kit import (
    Invitation,
    JoinRequest,
    check_request_signature,
    key_fingerprint,
    load_certificate,
    make_key,
    make_request,
    public_text,
    read_kit,
    write_kit,
)

NOW = datetime(2030, 1, 2, 3, 4, tzinfo=UTC)
INVITATION = Invitation(
    consortium="north",
    hospital="hospital-a",
    address="coordinator.example",
    port=8443,
    ca_certificate="(a certificate)",
    invitation="0" * 32,
    issued=NOW,
    expires=NOW + timedelta(days=14),
)


def test_kits_come_back_as_they_were(tmp_path: Path) -> None:
    write_kit(INVITATION, tmp_path / "invitation.json")
    assert read_kit(Invitation, tmp_path / "invitation.json") == INVITATION
    request = make_request(INVITATION, make_key(), NOW)
    write_kit(request, tmp_path / "request.json")
    assert read_kit(JoinRequest, tmp_path / "request.json") == request


def test_a_request_proves_that_its_maker_has_the_key() -> None:
    request = make_request(INVITATION, make_key(), NOW)
    check_request_signature(request)
    assert (request.hospital, request.invitation) == ("hospital-a", "0" * 32)


CHANGES: dict[str, Callable[[JoinRequest], object]] = {
    "hospital": lambda _: "hospital-b",
    "invitation": lambda _: "1" * 32,
    "public_key": lambda _: public_text(make_key()),
    "made": lambda request: request.made + timedelta(seconds=1),
    "software": lambda _: "9.9.9",
    "signature": lambda request: make_request(INVITATION, make_key(), NOW).signature,
}


@pytest.mark.parametrize("field", CHANGES)
def test_whatever_is_changed_on_the_way_is_refused(field: str) -> None:
    request = make_request(INVITATION, make_key(), NOW)
    changed = request.model_copy(update={field: CHANGES[field](request)})
    with pytest.raises(SettingsError, match=r"hospital-[ab] is not signed by its own key"):
        check_request_signature(changed)


@pytest.mark.parametrize("signature", ["", "no base64!", "AAAA"])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    request = make_request(INVITATION, make_key(), NOW)
    with pytest.raises(SettingsError, match="is not signed by its own key"):
        check_request_signature(request.model_copy(update={"signature": signature}))


def _openssh(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    encoded = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return encoded.decode()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ssh-rsa nothing",
        _openssh(ed25519.Ed25519PrivateKey.generate()),
        _openssh(ec.generate_private_key(ec.SECP256R1())),
    ],
    ids=["empty", "no key", "Ed25519", "P-256"],
)
def test_keys_of_other_kinds_are_refused(text: str) -> None:
    request = make_request(INVITATION, make_key(), NOW).model_copy(update={"public_key": text})
    with pytest.raises(SettingsError, match=r"expected (a public key|an elliptic curve key)"):
        check_request_signature(request)


def test_the_fingerprint_is_that_of_openssl(tmp_path: Path) -> None:
    key = make_key()
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (tmp_path / "key.der").write_bytes(public)
    told = subprocess.run(
        ["openssl", "dgst", "-sha256", "-r", str(tmp_path / "key.der")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[0]
    shown = key_fingerprint(public_text(key))
    assert shown.replace(" ", "") == told
    assert [len(group) for group in shown.split()] == [4] * 16


GOOD = json.loads(INVITATION.model_dump_json())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (json.dumps(GOOD)[:-20], "was damaged on the way"),
        ("", "was damaged on the way"),
        ("\x00\xff", "was damaged on the way"),
        ("[]", "no invitation"),
        ("[" * 50_000, "was damaged on the way"),
        (json.dumps({**GOOD, "more": 1}), "more = 1: unknown key"),
        (json.dumps({**GOOD, "port": 0}), "port = 0"),
        (json.dumps({**GOOD, "address": "host name; rm"}), "address = "),
        (json.dumps({**GOOD, "hospital": "../up"}), "hospital = "),
        (json.dumps({**GOOD, "invitation": "short"}), "invitation = "),
        (json.dumps({**GOOD, "expires": "2030-01-02T03:04:05"}), "expires = .*timezone"),
        (" " * 200_000, "bytes are too many"),
    ],
)
def test_a_damaged_invitation_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "invitation.json").write_text(text, encoding="latin-1")
    with pytest.raises(SettingsError, match=message):
        read_kit(Invitation, tmp_path / "invitation.json")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.json cannot be read: No such file"):
        read_kit(JoinRequest, tmp_path / "none.json")


def test_what_is_no_certificate_is_refused() -> None:
    with pytest.raises(SettingsError, match="expected a certificate in PEM's format"):
        load_certificate("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
