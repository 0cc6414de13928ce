"""How a coordinator's services, hospitals and federations are, in one value."""

from datetime import UTC, datetime

from common.errors import OneSliceError
from common.printable import printable
from common.settings_file import Settings
from common.supervision import Services, ServiceState, read_services
from server.consortium import Consortium
from server.expiry import warnings_of
from server.federation_status import FederationStatus, duration, federation_status, federation_text
from server.flower_control import node_states
from server.members import Member, read_members
from server.members_sync import is_superlink_up, read_node_ids
from server.run_folder import RunFolder


class HospitalStatus(Settings):
    """A hospital of the consortium.

    `state`: online, offline, never seen, or as in members.json; and whether its year is over.
    """

    hospital: str
    state: str
    what_to_do: str = ""


class ConsortiumStatus(Settings):
    """All that a coordinator should know at a glance.

    Attributes:
        name: The consortium.
        up: Whether `coordinator up` runs.
        problem: What the supervisor could not do the last time, or why hospitals are not known.
        services: SuperLink, proxy, MLflow.
        hospitals: All that were invited.
        federations: All that were started.
        damaged: Folders of federations that cannot be read, and why.
        warnings: What ends soon, and what to do.
    """

    name: str
    up: bool
    problem: str = ""
    services: tuple[ServiceState, ...] = ()
    hospitals: tuple[HospitalStatus, ...] = ()
    federations: tuple[FederationStatus, ...] = ()
    damaged: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def consortium_status(consortium: Consortium) -> ConsortiumStatus:
    """The status now; asks the SuperLink who is online, which takes a second or two.

    Raises:
        SettingsError: this is no consortium's folder.
    """
    settings = consortium.read_settings()
    services = read_services(consortium.services_file)
    is_up = services is not None and services.is_supervised()
    hospitals, problem = _hospitals(consortium)
    federations, damaged = [], []
    for path in sorted(consortium.runs.glob("*/plan.toml")):
        try:
            federations.append(federation_status(RunFolder(path.parent)))
        except OneSliceError as error:
            damaged.append(f"{path.parent.name}: {error}")
    told = services.problem if services is not None and is_up else ""
    return ConsortiumStatus(
        name=settings.name,
        up=is_up,
        problem="; ".join(text for text in (told, problem) if text),
        services=_services(services, is_up=is_up),
        hospitals=hospitals,
        federations=tuple(federations),
        damaged=tuple(damaged),
        warnings=tuple(warnings_of(consortium, _now())),
    )


def consortium_text(status: ConsortiumStatus) -> str:
    """The same for people."""
    begin = "" if status.up else ": `oneslice coordinator up` starts it"
    lines = [f"{status.name} is {'up' if status.up else 'down'}{begin}"]
    for service in status.services:
        lines += _service_lines(service)
    if status.problem:
        lines.append(f"problem: {status.problem}")
    for one in status.hospitals:
        advice = f"  {one.what_to_do}" if one.what_to_do else ""
        lines.append(f"  {one.hospital:<24}{one.state:<12}{advice}".rstrip())
    for federation in status.federations:
        lines += federation_text(federation).split("\n")
    lines += [f"damaged: {one}" for one in status.damaged]
    lines += [f"warning: {one}" for one in status.warnings]
    return "\n".join(map(printable, lines))


def _services(services: Services | None, *, is_up: bool) -> tuple[ServiceState, ...]:
    return services.services if services is not None and is_up else ()


def _service_lines(one: ServiceState) -> list[str]:
    since = (_now() - datetime.fromisoformat(one.since)).total_seconds() if one.since else 0.0
    lines = [f"  {one.name:<24}{one.state:<12}for {duration(since)}"]
    if one.restarts:
        lines[0] += f", restarted {one.restarts} times, last: {one.last_exit}"
    if one.state != "running" and one.last_lines:
        lines += [f"    {one.last_lines[-1]}", f"    more: `oneslice coordinator logs {one.name}`"]
    return lines


def _hospitals(consortium: Consortium) -> tuple[tuple[HospitalStatus, ...], str]:
    """Each hospital, and why it is not known who is online, if so."""
    members = read_members(consortium.members_file).members
    states: dict[str, str] | None = None
    problem = ""
    try:
        if is_superlink_up(consortium):
            states = node_states(consortium)
    except OneSliceError as error:
        problem = str(error)
    ids = read_node_ids(consortium.nodes_file)
    return tuple(_hospital(one, ids, states) for one in members), problem


def _hospital(member: Member, ids: dict[str, str], states: dict[str, str] | None) -> HospitalStatus:
    if member.state != "registered":
        waits = "waits for its request.json: `oneslice coordinator register`"
        advice = waits if member.state == "invited" else ""
        return HospitalStatus(hospital=member.hospital, state=member.state, what_to_do=advice)
    found = _registered_hospital(member, ids, states)
    if not member.is_expired(_now()):
        return found
    decide = f"its year is over: `oneslice coordinator renew {member.hospital}`, or `revoke` it"
    expired = {"state": f"{found.state}, expired", "what_to_do": decide}
    return found.model_copy(update=expired)


def _registered_hospital(
    member: Member, ids: dict[str, str], states: dict[str, str] | None
) -> HospitalStatus:
    if states is None:
        return HospitalStatus(hospital=member.hospital, state="registered")
    state = states.get(ids.get(member.fingerprint, ""), "registered")
    if state == "registered":
        advice = "has not connected yet: `oneslice hospital join` there"
        return HospitalStatus(hospital=member.hospital, state="never seen", what_to_do=advice)
    asks = "ask it for `oneslice hospital status`; if it was killed, Flower takes 60 s to notice"
    advice = asks if state == "offline" else ""
    return HospitalStatus(hospital=member.hospital, state=state, what_to_do=advice)


def _now() -> datetime:
    return datetime.now(UTC)
