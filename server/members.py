"""Who belongs to the consortium: invited, registered, revoked. Each change touches one hospital.

A key is registered once and never again: the SuperLink does not take back a key that it let go, and
a hospital that was revoked must not return with what it still has.
"""

import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field

from common.errors import SettingsError
from common.file_lock import hold_file
from common.kit import InvitationId, JoinRequest, check_request_signature, key_fingerprint
from common.plan import Name
from common.settings_file import Settings, parse_settings
from common.whole_file import write_whole

INVITATION_DAYS, MEMBER_DAYS, WARN_DAYS = 14, 365, 30


class OpenInvitation(Settings):
    """An invitation that nobody has used yet."""

    id: InvitationId
    expires: AwareDatetime


class Member(Settings):
    """One hospital. `expires`: by when somebody should decide whether it stays.

    A registered hospital can be invited again for a new key; the old one holds until then.
    """

    hospital: Name
    state: Literal["invited", "registered", "revoked"]
    since: AwareDatetime
    invitation: OpenInvitation | None = None
    public_key: str = ""
    fingerprint: str = ""
    expires: AwareDatetime | None = None

    def is_expired(self, now: datetime) -> bool:
        """Whether its year is over. It stays in: no clock shuts a hospital out, only `revoke`."""
        return self.state == "registered" and (self.expires is None or now >= self.expires)

    def days_left(self, now: datetime) -> int | None:
        """Whole days until its year or its invitation ends, negative afterwards."""
        ends = self.expires if self.state == "registered" else None
        if self.state == "invited" and self.invitation is not None:
            ends = self.invitation.expires
        return (ends - now).days if ends else None


class Members(Settings):
    """members.json. `used_keys`: fingerprints of all keys that were ever registered."""

    members: tuple[Member, ...] = ()
    used_keys: tuple[str, ...] = Field(default=(), repr=False)

    def find(self, hospital: str) -> Member | None:
        """The hospital of that name, however it is capitalised."""
        wanted = hospital.casefold()
        return next((one for one in self.members if one.hospital.casefold() == wanted), None)

    def named(self, hospital: str) -> Member:
        """The hospital of that name.

        Raises:
            SettingsError: there is none.
        """
        found = self.find(hospital)
        if found is None:
            names = ", ".join(one.hospital for one in self.members) or "none yet"
            raise SettingsError(f"no hospital is called {hospital!r}; known are: {names}")
        return found

    def with_member(self, changed: Member) -> "Members":
        """The same with one hospital added or changed."""
        others = [one for one in self.members if one.hospital != changed.hospital]
        listed = tuple(sorted((*others, changed), key=lambda one: one.hospital))
        return self.model_copy(update={"members": listed})


def read_members(path: Path) -> Members:
    """The members in a file; none if there is no file yet.

    Raises:
        SettingsError: the file is damaged.
    """
    if not path.exists():
        return Members()
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise SettingsError(f"{path} is damaged ({error}): restore it from a backup") from None
    return parse_settings(Members, values, str(path))


@contextmanager
def changing_members(path: Path) -> Iterator[list[Members]]:
    """The members in a list of one: whoever replaces it has the new ones written on leaving.

    One at a time: two commands at once must not lose each other's change.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_file(path.with_suffix(".lock"), wait=True):
        before = read_members(path)
        held = [before]
        yield held
        if held[0] != before:
            write_whole(path, held[0].model_dump_json(indent=2) + "\n")


def invite(
    members: Members, hospital: str, now: datetime
) -> tuple[Members, Member, OpenInvitation]:
    """Opens an invitation; an earlier one of that hospital is no longer good.

    Raises:
        SettingsError: the name is too near to another hospital's.
    """
    known = members.find(hospital)
    if known is not None and known.hospital != hospital:
        raise SettingsError(
            f"{hospital!r} differs from {known.hospital!r} by its capitals alone: use that name, "
            "or take another"
        )
    opened = OpenInvitation(id=secrets.token_hex(16), expires=now + timedelta(days=INVITATION_DAYS))
    if known is not None and known.state == "registered":
        changed = known.model_copy(update={"invitation": opened})
    else:
        values = {"hospital": hospital, "state": "invited", "since": now, "invitation": opened}
        changed = parse_settings(Member, values, "invitation")
    return members.with_member(changed), changed, opened


def register(members: Members, request: JoinRequest, now: datetime) -> tuple[Members, Member]:
    """Takes a hospital's key in exchange for its invitation, which is used up.

    Raises:
        SettingsError: the invitation is not open, the key was used before, or the signature fails.
    """
    check_request_signature(request)
    known = members.find(request.hospital)
    if known is None or known.hospital != request.hospital:
        raise SettingsError(
            f"{request.hospital} was not invited: `oneslice coordinator invite {request.hospital}`"
        )
    fingerprint = key_fingerprint(request.public_key)
    if fingerprint in members.used_keys:
        owner = next((m.hospital for m in members.members if m.fingerprint == fingerprint), None)
        raise SettingsError(
            f"this key was registered before, for {owner or 'a hospital that has another now'}, "
            "and is taken once: have the hospital make another with `join-kit --new-key`"
        )
    _check_invitation(known, request, now)
    registered = Member(
        hospital=known.hospital,
        state="registered",
        since=now,
        public_key=request.public_key,
        fingerprint=fingerprint,
        expires=now + timedelta(days=MEMBER_DAYS),
    )
    used = (*members.used_keys, fingerprint)
    return members.with_member(registered).model_copy(update={"used_keys": used}), registered


def renew(members: Members, hospital: str, now: datetime) -> tuple[Members, Member]:
    """A registered hospital belongs for another year from now; it need not do anything.

    Raises:
        SettingsError: it is not registered.
    """
    known = members.named(hospital)
    if known.state != "registered":
        raise SettingsError(
            f"{known.hospital} is {known.state}, not registered: "
            f"`oneslice coordinator invite {known.hospital}`, and `join-kit` there"
        )
    renewed = known.model_copy(update={"expires": now + timedelta(days=MEMBER_DAYS)})
    return members.with_member(renewed), renewed


def revoke(members: Members, hospital: str, now: datetime) -> tuple[Members, Member]:
    """Shuts a hospital out, and its open invitation with it.

    Raises:
        SettingsError: there is no such hospital, or it is out already.
    """
    known = members.named(hospital)
    if known.state == "revoked":
        raise SettingsError(f"{known.hospital} was revoked on {known.since:%Y-%m-%d} already")
    changes = {"state": "revoked", "since": now, "invitation": None}
    revoked = known.model_copy(update=changes)
    return members.with_member(revoked), revoked


def _check_invitation(known: Member, request: JoinRequest, now: datetime) -> None:
    again = f"`oneslice coordinator invite {known.hospital}` makes another"
    if known.state == "revoked":
        raise SettingsError(f"{known.hospital} was revoked on {known.since:%Y-%m-%d}; {again}")
    if known.invitation is None:
        raise SettingsError(
            f"the name {known.hospital} is taken: it is registered since {known.since:%Y-%m-%d}, "
            f"and no invitation is open; {again}"
        )
    if request.invitation != known.invitation.id:
        raise SettingsError(
            f"this request answers another invitation than the last one to {known.hospital}: send "
            f"the last one again, or {again}"
        )
    if now >= known.invitation.expires:
        ended = f"{known.invitation.expires:%Y-%m-%d}"
        raise SettingsError(f"the invitation of {known.hospital} ended on {ended}; {again}")
