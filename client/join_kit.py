"""Takes a coordinator's invitation: makes the hospital's key here, and the request that goes back.

The key is made on this machine and never leaves it; the request holds its public half alone.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from client.node import Node
from client.store.store import Store
from common.errors import SettingsError
from common.kit import (
    Invitation,
    certificate_fingerprint,
    key_fingerprint,
    make_key,
    make_request,
    public_text,
    read_kit,
    write_kit,
)
from common.version import SOFTWARE, release_of
from common.whole_file import PRIVATE, PUBLIC, write_whole


@dataclass(frozen=True)
class Joining:
    """What the person is told.

    Attributes:
        invitation: the one that was accepted.
        authority: fingerprint of the certificate that came with it.
        key: fingerprint of the hospital's key.
        request: the file that goes back.
        new_key: whether the key was made just now.
    """

    invitation: Invitation
    authority: str
    key: str
    request: Path
    new_key: bool


def accept_invitation(
    store: Store, node: Node, file: Path, now: datetime, *, new_key: bool = False
) -> Joining:
    """Checks an invitation and makes the request, with the key that is there or with a new one.

    Args:
        store: the hospital's.
        node: where the files go.
        file: the invitation, as it came.
        now: the moment, UTC.
        new_key: makes another key; the one before is gone then.

    Raises:
        SettingsError: the invitation is damaged, over, another hospital's, of another consortium
            than the node's, or made by another version.
    """
    invitation = read_kit(Invitation, file)
    authority = _check_invitation(invitation, store.hospital, file, now)
    _check_same_consortium(node, invitation)
    # The rights of a folder that is there already may have been widened to a group on purpose.
    node.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = new_key or not node.private_key.exists()
    key = _make_key(node) if fresh else _load_key(node.private_key)
    request = make_request(invitation, key, now)
    write_whole(node.public_key, f"{public_text(key)}\n", PUBLIC)
    write_whole(node.ca_certificate, invitation.ca_certificate, PUBLIC)
    write_kit(request, node.request_file)
    # Last: it says that all the rest is there.
    write_kit(invitation, node.invitation_file)
    fingerprint = key_fingerprint(request.public_key)
    return Joining(invitation, authority, fingerprint, node.request_file, fresh)


def _check_invitation(invitation: Invitation, hospital: str, file: Path, now: datetime) -> str:
    try:
        authority = certificate_fingerprint(invitation.ca_certificate)
    except SettingsError as error:
        raise SettingsError(
            f"{file} was damaged on the way ({error}): have it sent again, as an attached file"
        ) from None
    if invitation.hospital != hospital:
        raise SettingsError(
            f"{file} invites {invitation.hospital}, this store is {hospital}'s: take the "
            "invitation for that name, or have the coordinator invite this one"
        )
    if now >= invitation.expires:
        raise SettingsError(
            f"the invitation ended on {invitation.expires:%Y-%m-%d %H:%M} UTC, it is "
            f"{now.astimezone(UTC):%Y-%m-%d %H:%M}: ask the coordinator for another, or set this "
            "machine's clock"
        )
    if release_of(invitation.software) != release_of(SOFTWARE):
        raise SettingsError(
            f"the coordinator runs OneSlice {invitation.software}, this hospital {SOFTWARE}: "
            f"pip install oneslice=={invitation.software}"
        )
    return authority


def _check_same_consortium(node: Node, invitation: Invitation) -> None:
    if not node.invitation_file.exists():
        return
    joined = node.read_invitation()
    if joined.ca_certificate != invitation.ca_certificate:
        raise SettingsError(
            f"{node.path} belongs to the consortium {joined.consortium} with another certificate "
            "authority: if this is another consortium, give it its own folder with --node; if the "
            "coordinator says that the authority is new, remove that folder first"
        )


def _make_key(node: Node) -> ec.EllipticCurvePrivateKey:
    key = make_key()
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    write_whole(node.private_key, text, PRIVATE)
    return key


def _load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise SettingsError(
            f"the key {path} cannot be read ({error}): restore it, or make another with --new-key"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingsError(f"{path} is no elliptic curve key: make another with --new-key")
    return key
