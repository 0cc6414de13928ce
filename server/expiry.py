"""What ends soon or has ended, as sentences that say what to do."""

from datetime import datetime, timedelta

from server.certificates import addresses_in, expiry
from server.consortium import Consortium
from server.members import WARN_DAYS, Member, read_members


def warnings_of(consortium: Consortium, now: datetime) -> list[str]:
    """One sentence for each certificate and each hospital's year that ends within 30 days."""
    soon = now + timedelta(days=WARN_DAYS)
    found = []
    ends = expiry(consortium.ca_certificate)
    if ends <= soon:
        mends = "make a new consortium and invite all hospitals again"
        found.append(f"the authority's certificate {_ends(ends, now)}: {mends}")
    ends = expiry(consortium.server_certificate)
    if ends <= soon:
        found.append(f"the server's certificate {_ends(ends, now)}: `oneslice coordinator renew`")
    missing = _addresses_not_in_certificate(consortium)
    if missing:
        found.append(
            f"the server's certificate is not good for {', '.join(missing)}: "
            "`oneslice coordinator renew`"
        )
    members = read_members(consortium.members_file).members
    return found + [text for member in members if (text := _warning(member, now, soon))]


def _addresses_not_in_certificate(consortium: Consortium) -> list[str]:
    known = addresses_in(consortium.server_certificate)
    addresses = consortium.read_settings().addresses
    return [one for one in addresses if one.lower() not in known]


def _warning(member: Member, now: datetime, soon: datetime) -> str:
    if member.state != "registered" or member.expires is None or member.expires > soon:
        return ""
    mends = f"`oneslice coordinator renew {member.hospital}`"
    if member.is_expired(now):
        mends = f"it can still connect: {mends}, or `revoke {member.hospital}` to shut it out"
    return f"the membership of {member.hospital} {_ends(member.expires, now)}: {mends}"


def _ends(moment: datetime, now: datetime) -> str:
    return f"{'ended' if moment <= now else 'ends'} on {moment:%Y-%m-%d}"
