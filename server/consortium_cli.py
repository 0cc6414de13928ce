"""The commands by which a coordinator makes a consortium and says who belongs to it.

Heavy libraries load inside the commands, so that help is quick.
"""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.command_line import STOPPED, Format
from server.cli_options import DEFAULT_CONSORTIUM, ConsortiumFolder, OutputFormat

if TYPE_CHECKING:
    from server.consortium import Consortium
    from server.members import Member

MaybeFile = Annotated[Path | None, typer.Option("--out", help="The invitation's file.")]
HospitalName = Annotated[str, typer.Argument(metavar="HOSPITAL", help="Its name in its store.")]


def add_consortium(app: typer.Typer) -> None:
    """Puts these commands among a coordinator's others."""
    for command in (init, invite, register, renew, revoke, members):
        app.command()(command)


def init(
    name: Annotated[str, typer.Option(help="The consortium's name.")],
    address: Annotated[
        list[str], typer.Option(help="A name or IP address that hospitals use; may be repeated.")
    ],
    port: Annotated[int, typer.Option(help="The only port that hospitals reach.")] = 8443,
    superlink_port: Annotated[
        int | None, typer.Option(help="On loopback only; the next port if not given.")
    ] = None,
    mlflow_port: Annotated[
        int | None, typer.Option(help="On loopback only; the next but one if not given.")
    ] = None,
    proxy: Annotated[
        Literal["nginx", "own"], typer.Option(help="own: you run a proxy by yourself.")
    ] = "nginx",
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Make a consortium: certificate authority, server certificate, settings, a plan to edit."""
    from common.kit import certificate_fingerprint
    from common.settings_file import parse_settings
    from server.certificates import addresses_in, expiry
    from server.consortium import ConsortiumSettings, make_consortium

    values = {
        "name": name,
        "addresses": address,
        "port": port,
        "superlink_port": superlink_port or port + 1,
        "mlflow_port": mlflow_port or port + 2,
        "proxy": proxy,
    }
    settings = parse_settings(ConsortiumSettings, values, "init")
    made = make_consortium(consortium, settings, _now())
    authority = certificate_fingerprint(made.ca_certificate.read_text(encoding="utf-8"))
    print(f"{name}: consortium in {consortium}")
    print(f"authority until {expiry(made.ca_certificate):%Y-%m-%d}: {authority}")
    print(
        f"server certificate until {expiry(made.server_certificate):%Y-%m-%d} for "
        f"{', '.join(addresses_in(made.server_certificate))}"
    )
    print(f"keep {made.authority[0]} safe: whoever has it can pose as this coordinator")
    print(f"next: edit {made.plan_file}, and `oneslice coordinator invite HOSPITAL` for each")


def invite(
    hospital: HospitalName, out: MaybeFile = None, consortium: ConsortiumFolder = DEFAULT_CONSORTIUM
) -> None:
    """Write an invitation for one hospital; a registered one gets it for a new key."""
    from common.kit import Invitation, certificate_fingerprint, write_kit
    from server.certificates import check_address
    from server.consortium import Consortium
    from server.members import changing_members
    from server.members import invite as open_invitation

    opened, now = Consortium(consortium), _now()
    settings = opened.read_settings()
    check_address(opened.server_certificate, settings.addresses[0])
    with changing_members(opened.members_file) as held:
        held[0], member, ticket = open_invitation(held[0], hospital, now)
        invitation = Invitation(
            consortium=settings.name,
            hospital=member.hospital,
            address=settings.addresses[0],
            port=settings.port,
            ca_certificate=opened.ca_certificate.read_text(encoding="utf-8"),
            invitation=ticket.id,
            issued=now,
            expires=ticket.expires,
        )
        file = out or Path(f"{member.hospital}.invitation.json")
        write_kit(invitation, file)
    print(f"{file}: send it to {member.hospital}; good until {invitation.expires:%Y-%m-%d}")
    print(f"by telephone, read out the CA: {certificate_fingerprint(invitation.ca_certificate)}")


def register(
    request: Annotated[Path, typer.Argument(help="The request.json that the hospital sent.")],
    fingerprint: Annotated[
        str | None, typer.Option(help="Its key's, as the hospital read it out; then nobody asks.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="It was compared before.")] = False,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Take a hospital's key in exchange for its invitation, once it was compared by telephone."""
    from common.kit import JoinRequest, read_kit
    from server.members import changing_members, read_members
    from server.members import register as take_key

    opened = _open(consortium)
    asked = read_kit(JoinRequest, request)
    # What cannot be taken is refused before anybody is called.
    _, wanted = take_key(read_members(opened.members_file), asked, _now())
    print(f"{wanted.hospital}'s key: {wanted.fingerprint}")
    if not _is_compared(wanted, fingerprint, yes=yes):
        print("nothing was registered: whoever sent this request may not be the hospital")
        raise typer.Exit(STOPPED)
    with changing_members(opened.members_file) as held:
        held[0], member = take_key(held[0], asked, _now())
    print(f"{member.hospital}: registered until {member.expires:%Y-%m-%d}")
    _tell_superlink(opened)


def renew(
    hospital: Annotated[
        str | None, typer.Argument(help="Which; without: the server's certificate.")
    ] = None,
    consortium: ConsortiumFolder = DEFAULT_CONSORTIUM,
) -> None:
    """Another year for one hospital, or a new server certificate by the same authority."""
    from server.certificates import addresses_in, expiry
    from server.consortium import renew_server_certificate
    from server.members import changing_members
    from server.members import renew as renew_key

    opened = _open(consortium)
    if hospital is None:
        settings = opened.read_settings()
        renew_server_certificate(opened, settings, _now())
        opened.write_flower_settings(settings)
        good_for = ", ".join(addresses_in(opened.server_certificate))
        print(f"server certificate until {expiry(opened.server_certificate):%Y-%m-%d}: {good_for}")
        print("no hospital need do anything; if the coordinator is up: `down`, then `up` again")
        return
    with changing_members(opened.members_file) as held:
        held[0], member = renew_key(held[0], hospital, _now())
    print(f"{member.hospital}: registered until {member.expires:%Y-%m-%d}")


def revoke(hospital: HospitalName, consortium: ConsortiumFolder = DEFAULT_CONSORTIUM) -> None:
    """Shut one hospital out; its key is never taken again."""
    from server.members import changing_members
    from server.members import revoke as shut_out

    opened = _open(consortium)
    with changing_members(opened.members_file) as held:
        held[0], member = shut_out(held[0], hospital, _now())
    print(f"{member.hospital}: revoked")
    _tell_superlink(opened)


def members(
    output: OutputFormat = Format.TEXT, consortium: ConsortiumFolder = DEFAULT_CONSORTIUM
) -> None:
    """Who was invited, is registered, was revoked; what ends when."""
    from server.certificates import expiry
    from server.expiry import warnings_of
    from server.members import read_members

    opened, now = _open(consortium), _now()
    listed = read_members(opened.members_file).members
    certificates = {
        "authority": expiry(opened.ca_certificate),
        "server": expiry(opened.server_certificate),
    }
    warnings = warnings_of(opened, now)
    if output is Format.JSON:
        rows = [{**one.model_dump(mode="json"), "days_left": one.days_left(now)} for one in listed]
        ends = {name: moment.isoformat() for name, moment in certificates.items()}
        print(json.dumps({"members": rows, "certificates": ends, "warnings": warnings}, indent=2))
        return
    for member in listed:
        print(f"{member.hospital:<24}{_state_of(member, now)}")
    for name, moment in certificates.items():
        print(f"{name + ' certificate':<24}until {moment:%Y-%m-%d}")
    for warning in warnings:
        print(f"warning: {warning}")


def _is_compared(member: "Member", told: str | None, *, yes: bool) -> bool:
    """Whether the hospital itself says that this is its key.

    Raises:
        SettingsError: it has told another fingerprint.
    """
    from common.errors import SettingsError

    if told is not None:
        if "".join(told.split()).casefold() == "".join(member.fingerprint.split()):
            return True
        raise SettingsError(
            f"expected the key {told!r}, the request holds {member.fingerprint!r}: it was changed "
            f"on the way, or is another; have {member.hospital} send its request.json again"
        )
    question = f"Was this compared with {member.hospital} by telephone, and is it the same?"
    return yes or typer.confirm(question)


def _state_of(member: "Member", now: datetime) -> str:
    if member.state == "registered" and member.expires is not None:
        again = ", invited for a new key" if member.invitation else ""
        word = "expired on" if member.is_expired(now) else "registered until"
        return f"{word} {member.expires:%Y-%m-%d}{again}  {member.fingerprint}"
    if member.state == "invited" and member.invitation is not None:
        word = "invited until" if now < member.invitation.expires else "invitation ended on"
        return f"{word} {member.invitation.expires:%Y-%m-%d}"
    return f"revoked on {member.since:%Y-%m-%d}"


def _tell_superlink(consortium: "Consortium") -> None:
    from server.members_sync import is_superlink_up, register_with_superlink

    if not is_superlink_up(consortium):
        print("takes effect with the next `oneslice coordinator up`")
        return
    for sentence in register_with_superlink(consortium):
        print(sentence)


def _open(path: Path) -> "Consortium":
    from server.consortium import Consortium

    opened = Consortium(path)
    opened.read_settings()
    return opened


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
