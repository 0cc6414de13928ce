"""Whether the coordinator can be reached and is who it should be, and what would stop a SuperNode.

One connection tells most of it: TLS says whether the certificate is the consortium's, good for that
address and for how long; the answer to a plain request says what time it is at the coordinator.
"""

import socket
import ssl
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.client import HTTPException, HTTPSConnection
from urllib.request import getproxies, proxy_bypass

from client.approvals import asked_plans, read_approvals
from client.check import Check
from client.node import Node
from client.supernode import is_listening, worker_socket
from common.errors import SettingsError
from common.kit import Invitation

PATIENCE_S = 10.0
SOON = timedelta(days=30)
# Flower (TIMESTAMP_TOLERANCE and SYSTEM_TIME_TOLERANCE in flwr.common.constant) takes a signature
# that is 305 s old at most and 5 s from the future.
MOST_BEHIND_S, MOST_AHEAD_S = 305.0, 5.0
NAME_MISMATCH, NOT_YET_VALID, EXPIRED = 62, 9, 10  # OpenSSL's numbers; 64 is that of an IP address
ADDRESS_MISMATCH = 64
APPROVE = "`oneslice hospital approve` shows what it is"


@dataclass(frozen=True)
class Seen:
    """What one connection told: when the server's certificate ends, and the two clocks' distance.

    `ahead_s`: by how much this machine's clock is ahead, to about a second; None if not told.
    """

    certificate_ends: datetime
    ahead_s: float | None


def check_node(node: Node, now: datetime) -> Iterator[Check]:
    """Everything about a hospital's part in a consortium, as it is looked at."""
    try:
        invitation = node.read_invitation()
    except SettingsError as error:
        yield Check("invitation", str(node.path), "this hospital has joined nothing", str(error))
        return
    yield _check_invitation(node, invitation, now)
    yield _check_key(node)
    yield from check_coordinator(node, invitation, now)
    yield check_approvals(node)
    yield check_asked(node)
    yield check_socket(node)


def _check_invitation(node: Node, invitation: Invitation, now: datetime) -> Check:
    found = (
        f"{invitation.hospital} in {invitation.consortium}, at {invitation.address}:"
        f"{invitation.port}; to be answered until {invitation.expires:%Y-%m-%d}"
    )
    if not node.request_file.exists():
        to_do = "`oneslice hospital join-kit INVITATION` again"
        return Check("invitation", found, "the request for the coordinator is gone", to_do)
    return Check("invitation", found)


def _check_key(node: Node) -> Check:
    if node.private_key.exists() and node.ca_certificate.exists():
        return Check("key", "there, with the consortium's certificate")
    missing = node.ca_certificate if node.private_key.exists() else node.private_key
    to_do = "`oneslice hospital join-kit INVITATION` again, then register the new request"
    return Check("key", f"{missing.name} is missing", "the SuperNode cannot start", to_do)


def check_coordinator(node: Node, invitation: Invitation, now: datetime) -> Iterator[Check]:
    """Address, port, certificate and clock, until one of them stops the next."""
    place = f"{invitation.address}:{invitation.port}{_told_of_proxy(invitation.address)}"
    try:
        socket.getaddrinfo(invitation.address, invitation.port, type=socket.SOCK_STREAM)
    except OSError as error:
        to_do = "ask your network's people for the name, or the coordinator for an IP address"
        found = f"{invitation.address}{_told_of_proxy(invitation.address)}: {error}"
        yield Check("address", found, "it has no address here", to_do)
        return
    yield Check("address", invitation.address)
    try:
        seen = look(invitation, str(node.ca_certificate), now)
    except ssl.SSLError as error:
        yield explain_tls(error, place, now)
        return
    except (OSError, HTTPException) as error:
        to_do = "is the coordinator up? Have outgoing TCP connections to it allowed"
        yield Check("port", f"{place}: {error}", "nothing answers there", to_do)
        return
    yield Check("port", f"{place} answers")
    yield _check_certificate(seen.certificate_ends, now)
    yield check_clocks(seen.ahead_s)


def _told_of_proxy(address: str) -> str:
    """That the SuperNode would take another way; empty if no proxy is set for that address."""
    if "https" not in getproxies() or proxy_bypass(address):
        return ""
    return " (directly; the SuperNode will go through the proxy in HTTPS_PROXY)"


def look(invitation: Invitation, ca_certificate: str, now: datetime) -> Seen:
    """What one connection tells.

    Raises:
        ssl.SSLError: the server's certificate is not one to trust.
        OSError: nothing answers.
        HTTPException: what answers speaks no HTTP.
    """
    trust = ssl.create_default_context(cafile=ca_certificate)
    connection = HTTPSConnection(
        invitation.address, invitation.port, timeout=PATIENCE_S, context=trust
    )
    with closing(connection):
        connection.connect()
        # The certificate as it was checked; it has an end, or it would not have passed.
        ends = ssl.cert_time_to_seconds(str(_certificate_of(connection)["notAfter"]))
        connection.request("GET", "/")
        date = connection.getresponse().getheader("Date")
    ahead_s = None if date is None else (now - parsedate_to_datetime(date)).total_seconds()
    return Seen(datetime.fromtimestamp(ends, UTC), ahead_s)


def _certificate_of(connection: HTTPSConnection) -> dict[str, object]:
    assert isinstance(connection.sock, ssl.SSLSocket)
    return dict(connection.sock.getpeercert() or {})


def explain_tls(error: ssl.SSLError, place: str, now: datetime) -> Check:
    """Why the coordinator's certificate is not trusted, and what to do."""
    code = getattr(error, "verify_code", None)
    if code in (NOT_YET_VALID, EXPIRED):
        problem = "its certificate is " + ("over" if code == EXPIRED else "not valid yet")
        to_do = (
            f"it is {now.astimezone(UTC):%Y-%m-%d %H:%M} UTC here: if that is right, the "
            "coordinator has to run `oneslice coordinator renew`; if not, set the clock"
        )
    elif code in (NAME_MISMATCH, ADDRESS_MISMATCH):
        problem = "its certificate is for another address"
        to_do = "the coordinator adds the address to consortium.toml and runs `renew`"
    elif code is not None:
        problem = "its certificate was not signed by this consortium"
        to_do = "somebody else answers there, or the consortium is new: ask for an invitation anew"
    else:
        problem = "what answers there speaks no TLS"
        to_do = "compare address and port with the coordinator"
    return Check("certificate", f"{place}: {error}", problem, to_do)


def _check_certificate(ends: datetime, now: datetime) -> Check:
    left = ends - now
    found = f"the consortium's, for {left.days} more days"
    if left < SOON:
        to_do = "the coordinator runs `oneslice coordinator renew`; here nothing changes"
        return Check("certificate", found, "it is over soon", to_do)
    return Check("certificate", found)


def check_clocks(ahead_s: float | None) -> Check:
    """Whether Flower would take this machine's signatures, which carry its time."""
    if ahead_s is None:
        return Check("clock", "the coordinator does not tell its time")
    found = f"{abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} the coordinator's"
    # The time that was told is cut to whole seconds and was a moment under way.
    if -MOST_BEHIND_S < ahead_s < MOST_AHEAD_S + 1:
        return Check("clock", found)
    problem = (
        f"Flower refuses signatures from more than {MOST_AHEAD_S:.0f} s ahead or "
        f"{MOST_BEHIND_S:.0f} s behind"
    )
    return Check("clock", found, problem, "set both machines' clocks by NTP")


def check_approvals(node: Node) -> Check:
    """Whether anything may run here."""
    try:
        approvals = read_approvals(node.path)
    except SettingsError as error:
        return Check("approvals", "damaged", "nothing runs here", str(error))
    plans = ", ".join(one.federation for one in approvals.plans) or "none"
    found = f"{len(approvals.bundles)} bundles; plans: {plans}"
    if not approvals.bundles:
        return Check("approvals", found, "no bundle is approved: no code runs here", APPROVE)
    if not approvals.plans:
        return Check("approvals", found, "no plan is approved: no round is answered", APPROVE)
    return Check("approvals", found)


def check_asked(node: Node) -> Check:
    """Plans and bundles that came and wait for a person."""
    plans = [plan.federation for plan in asked_plans(node.path)]
    bundles = [path.stem[:12] for path in node.refused.glob("*.fab")]
    if not plans and not bundles:
        return Check("waiting", "nothing came that was not approved")
    found = "; ".join(
        f"{kind}: {', '.join(names)}"
        for kind, names in (("plans", plans), ("bundles", bundles))
        if names
    )
    return Check("waiting", found, "refused for want of an approval", APPROVE)


def check_socket(node: Node) -> Check:
    """Where worker and SuperNode meet, and who may."""
    path = worker_socket(node)
    moved = "" if path == node.worker_socket.absolute() else " (the folder's own path is too long)"
    if not is_listening(path):
        to_do = "`oneslice hospital join`, or `oneslice hospital worker` where they are apart"
        return Check("worker", f"nobody listens on {path}{moved}", "no round is answered", to_do)
    return Check("worker", f"listens on {path}{moved}")
