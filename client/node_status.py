"""A hospital's part in a federation as `hospital status` tells it, without a connection to anybody.

`hospital doctor` looks further: it asks the coordinator.
"""

from dataclasses import dataclass
from datetime import UTC

from client.approvals import MOST_ASKED, asked_plans, read_approvals
from client.join import explain
from client.node import Node
from common.errors import OneSliceError
from common.kit import load_certificate
from common.printable import printable
from common.supervision import ServiceState, read_services


@dataclass(frozen=True)
class ServiceStatus:
    """One of the services: its state, how often it was started again, and how it ended last."""

    name: str
    state: str
    restarts: int
    since: str
    last_exit: str
    meaning: str


@dataclass(frozen=True)
class NodeStatus:
    """What is known here.

    Attributes:
        consortium: its name; None if this hospital has joined nothing.
        coordinator: address and port.
        invitation_ends: until when the invitation is to be answered, UTC.
        authority_ends: when the consortium's certificate authority ends, UTC.
        supervised: whether `hospital join` runs.
        services: the worker and the SuperNode; empty before the first `join`.
        bundles: approved ones, their hashes.
        federations: approved ones.
        asked: those that wait for an approval.
        refused: hashes of bundles that came without an approval.
        problem: what could not be read; else empty.
    """

    consortium: str | None = None
    coordinator: str | None = None
    invitation_ends: str | None = None
    authority_ends: str | None = None
    supervised: bool = False
    services: tuple[ServiceStatus, ...] = ()
    bundles: tuple[str, ...] = ()
    federations: tuple[str, ...] = ()
    asked: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    problem: str = ""


def read_node_status(node: Node) -> NodeStatus:
    """The status; what is damaged is told, not raised."""
    if not node.path.is_dir():
        return NodeStatus()
    try:
        return _read(node)
    except OneSliceError as error:
        return NodeStatus(problem=str(error))


def _read(node: Node) -> NodeStatus:
    approvals, services = read_approvals(node.path), read_services(node.services_file)
    supervised = services is not None and services.is_supervised()
    known: dict[str, str] = {}
    if node.invitation_file.exists():
        invitation = node.read_invitation()
        authority = load_certificate(invitation.ca_certificate).not_valid_after_utc
        known = {
            "consortium": invitation.consortium,
            "coordinator": f"{invitation.address}:{invitation.port}",
            "invitation_ends": f"{invitation.expires.astimezone(UTC):%Y-%m-%d %H:%M}",
            "authority_ends": f"{authority:%Y-%m-%d}",
        }
    return NodeStatus(
        **known,
        supervised=supervised,
        services=tuple(_service(one) for one in services.services) if services else (),
        bundles=tuple(one.hash for one in approvals.bundles),
        federations=tuple(one.federation for one in approvals.plans),
        asked=tuple(plan.federation for plan in asked_plans(node.path)),
        refused=tuple(path.stem for path in sorted(node.refused.glob("*.fab"))),
    )


def _service(one: ServiceState) -> ServiceStatus:
    meaning = explain(one.last_lines)
    return ServiceStatus(one.name, one.state, one.restarts, one.since, one.last_exit, meaning)


def print_node_status(found: NodeStatus) -> None:
    """The federation's part of `hospital status`."""
    if found.problem:
        print(f"federation: {found.problem}")
        return
    if found.consortium is None:
        print("federation: none joined (`oneslice hospital join-kit INVITATION`)")
    else:
        print(
            f"federation: {found.consortium} at {found.coordinator}; invitation until "
            f"{found.invitation_ends} UTC, certificate authority until {found.authority_ends}"
        )
    if found.services and not found.supervised:
        print("  not running: `oneslice hospital join` starts it")
    for one in found.services if found.supervised else ():
        print(f"  {one.name:<11}{one.state} since {one.since}, restarts: {one.restarts}")
        if one.last_exit:
            print(f"  {'':<11}ended last: {one.last_exit}{one.meaning and f': {one.meaning}'}")
    bundles = ", ".join(name[:12] for name in found.bundles)
    print(f"  approved bundles: {bundles or 'none'}")
    print(f"  approved federations: {', '.join(found.federations) or 'none'}")
    if len(found.asked) >= MOST_ASKED:
        print(
            f"  {MOST_ASKED} plans wait, and no more are kept: approve one, or delete it in asked/"
        )
    waiting = [*found.asked, *(f"bundle {printable(name[:12])}" for name in found.refused)]
    if waiting:
        print(f"  WAITING FOR APPROVAL: {', '.join(waiting)} (`oneslice hospital approve`)")
