"""What coordinator and hospital hand each other before they can talk: two small JSON files.

The coordinator's invitation brings the hospital the address and the certificate authority; the
hospital's request brings back a public key, signed with its private half to prove that it has it.
Neither file is secret, and both can be changed on the way: the two people compare fingerprints by
telephone.
"""

import base64
import binascii
import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import AwareDatetime, Field

from common.errors import SettingsError
from common.plan import Name
from common.settings_file import Settings, parse_settings
from common.version import SOFTWARE
from common.whole_file import write_whole

# A name or an address, without a port; what else is in a certificate would not be a host.
Host = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9.:-]{0,251}[A-Za-z0-9])?$")]
Port = Annotated[int, Field(ge=1, le=65535)]
InvitationId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
LONGEST_KIT_BYTES = 100_000
_SIGNED_AS = b"OneSlice join request\n"


class Invitation(Settings):
    """From the coordinator to one hospital; good for one registration, until it expires."""

    consortium: Name
    hospital: Name
    address: Host
    port: Port
    ca_certificate: str = Field(max_length=20_000)
    invitation: InvitationId
    issued: AwareDatetime
    expires: AwareDatetime
    software: str = Field(default=SOFTWARE, max_length=64)


class JoinRequest(Settings):
    """From the hospital to the coordinator: its public key, in OpenSSH's format, signed by it."""

    hospital: Name
    invitation: InvitationId
    public_key: str = Field(max_length=1000)
    made: AwareDatetime
    software: str = Field(default=SOFTWARE, max_length=64)
    signature: str = Field(default="", max_length=1000)


K = TypeVar("K", bound=Settings)


def write_kit(kit: Invitation | JoinRequest, path: Path) -> None:
    """Writes it as JSON, whole or not at all."""
    write_whole(path, kit.model_dump_json(indent=2) + "\n")


def read_kit(kind: type[K], path: Path) -> K:
    """The invitation or request in a file.

    Raises:
        SettingsError: the file cannot be read or is not one, as after a damage on the way.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > LONGEST_KIT_BYTES:
        raise SettingsError(f"{path} is no {_name(kind)}: {len(data)} bytes are too many")
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        raise SettingsError(
            f"{path} is no {_name(kind)}, or was damaged on the way (expected JSON): have it sent "
            "again, as an attached file"
        ) from None
    return parse_settings(kind, values, f"{path} is no {_name(kind)}")


def _name(kind: type[Settings]) -> str:
    return "invitation" if kind is Invitation else "join request"


def make_key() -> ec.EllipticCurvePrivateKey:
    """A new private key on P-384, one of the curves that Flower takes."""
    return ec.generate_private_key(ec.SECP384R1())


def public_text(key: ec.EllipticCurvePrivateKey) -> str:
    """The public half in OpenSSH's format, as `flwr supernode register` takes it."""
    encoded = key.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return encoded.decode()


def make_request(
    invitation: Invitation, key: ec.EllipticCurvePrivateKey, made: datetime
) -> JoinRequest:
    """The answer to an invitation, signed."""
    request = JoinRequest(
        hospital=invitation.hospital,
        invitation=invitation.invitation,
        public_key=public_text(key),
        made=made.astimezone(UTC),
    )
    signature = key.sign(_signed_part(request), ec.ECDSA(hashes.SHA384()))
    return request.model_copy(update={"signature": base64.b64encode(signature).decode()})


def check_request_signature(request: JoinRequest) -> None:
    """Whether whoever made the request has the private half of its key.

    Raises:
        SettingsError: the key is none that Flower takes, or the signature is not by it.
    """
    key = load_public_key(request.public_key)
    try:
        signature = base64.b64decode(request.signature, validate=True)
        key.verify(signature, _signed_part(request), ec.ECDSA(hashes.SHA384()))
    except (InvalidSignature, binascii.Error):
        raise SettingsError(
            f"the request of {request.hospital} is not signed by its own key: it was changed on "
            "the way; have the hospital send its request.json again"
        ) from None


def load_public_key(text: str) -> ec.EllipticCurvePublicKey:
    """The key in a text of OpenSSH's format.

    Raises:
        SettingsError: it is none on P-384.
    """
    try:
        key = serialization.load_ssh_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SettingsError(f"expected a public key in OpenSSH's format, got {error}") from None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise SettingsError("expected an elliptic curve key on P-384, got another kind of key")
    return key


def key_fingerprint(public_key: str) -> str:
    """SHA-256 of a public key as 16 groups of four digits, to be read out over the telephone."""
    encoded = load_public_key(public_key).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return _in_groups(hashlib.sha256(encoded).hexdigest())


def certificate_fingerprint(pem: str) -> str:
    """SHA-256 of a certificate, in the same form.

    Raises:
        SettingsError: it is no certificate.
    """
    return _in_groups(load_certificate(pem).fingerprint(hashes.SHA256()).hex())


def load_certificate(pem: str) -> x509.Certificate:
    """The certificate in a text of PEM's format.

    Raises:
        SettingsError: it is none, as after a damage on the way.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError as error:
        raise SettingsError(f"expected a certificate in PEM's format, got {error}") from None


def _in_groups(digits: str) -> str:
    return " ".join(digits[at : at + 4] for at in range(0, len(digits), 4))


def _signed_part(request: JoinRequest) -> bytes:
    values = request.model_dump(mode="json", exclude={"signature"})
    return _SIGNED_AS + json.dumps(values, sort_keys=True).encode()
