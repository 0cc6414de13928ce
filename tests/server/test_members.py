"""Who is let in: each change touches one hospital, and no key or invitation counts twice."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import SettingsError
from common.kit import Invitation, JoinRequest, key_fingerprint, make_key, make_request, public_text
from server.members import (
    Member,
    Members,
    OpenInvitation,
    changing_members,
    invite,
    read_members,
    register,
    renew,
    revoke,
)

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def _answer(
    hospital: str, ticket: OpenInvitation, key: ec.EllipticCurvePrivateKey | None = None
) -> JoinRequest:
    invitation = Invitation(
        consortium="north",
        hospital=hospital,
        address="127.0.0.1",
        port=1,
        ca_certificate="",
        invitation=ticket.id,
        issued=NOW,
        expires=ticket.expires,
    )
    return make_request(invitation, key or make_key(), NOW)


def _joined(members: Members, hospital: str, now: datetime = NOW) -> Members:
    members, _, ticket = invite(members, hospital, now)
    return register(members, _answer(hospital, ticket), now)[0]


@pytest.fixture
def three() -> Members:
    members = Members()
    for name in ("hospital-a", "hospital-b", "hospital-c"):
        members = _joined(members, name)
    return members


def test_invited_then_registered_for_a_year() -> None:
    members, invited, ticket = invite(Members(), "hospital-a", NOW)
    assert (invited.state, ticket.expires) == ("invited", NOW + 14 * DAY)
    key = make_key()
    members, registered = register(members, _answer("hospital-a", ticket, key), NOW + DAY)
    assert members.members == (registered,)
    assert registered.fingerprint == key_fingerprint(public_text(key))
    assert registered.expires == NOW + 366 * DAY
    assert not registered.is_expired(NOW + 365 * DAY)
    assert registered.is_expired(NOW + 366 * DAY)
    assert [registered.days_left(NOW + n * DAY) for n in (1, 366, 367)] == [365, 0, -1]


CHANGES: dict[str, Callable[[Members], Members]] = {
    "invite": lambda members: invite(members, "hospital-b", NOW + DAY)[0],
    "register": lambda members: _joined(members, "hospital-b", NOW + DAY),
    "renew": lambda members: renew(members, "hospital-b", NOW + DAY)[0],
    "revoke": lambda members: revoke(members, "hospital-b", NOW + DAY)[0],
    "add": lambda members: _joined(members, "hospital-d", NOW + DAY),
}


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_touches_one_hospital(three: Members, change: str) -> None:
    changed = CHANGES[change](three)
    others = {"hospital-a", "hospital-c"} | ({"hospital-b"} if change == "add" else set())
    for name in others:
        assert changed.named(name) == three.named(name)
    assert changed != three


def test_a_hospital_stays_in_with_its_old_key_until_the_new_one_is_registered(
    three: Members,
) -> None:
    members, invited, ticket = invite(three, "hospital-b", NOW + DAY)
    old = three.named("hospital-b")
    assert (invited.state, invited.fingerprint) == ("registered", old.fingerprint)
    members, registered = register(members, _answer("hospital-b", ticket), NOW + 2 * DAY)
    assert registered.fingerprint != old.fingerprint
    assert registered.invitation is None
    assert [one.hospital for one in members.members] == ["hospital-a", "hospital-b", "hospital-c"]


def _refused(members: Members, request: JoinRequest, message: str, now: datetime = NOW) -> None:
    with pytest.raises(SettingsError, match=message):
        register(members, request, now)


def test_an_invitation_is_good_once() -> None:
    members, _, ticket = invite(Members(), "hospital-a", NOW)
    members, _ = register(members, _answer("hospital-a", ticket), NOW)
    _refused(members, _answer("hospital-a", ticket), "name hospital-a is taken.*no invitation")


def test_a_later_invitation_ends_the_one_before() -> None:
    members, _, first = invite(Members(), "hospital-a", NOW)
    members, _, second = invite(members, "hospital-a", NOW)
    _refused(members, _answer("hospital-a", first), "answers another invitation than the last")
    assert register(members, _answer("hospital-a", second), NOW)[1].state == "registered"


def test_an_invitation_ends() -> None:
    members, _, ticket = invite(Members(), "hospital-a", NOW)
    request = _answer("hospital-a", ticket)
    _refused(members, request, "hospital-a ended on 2030-01-15", NOW + 14 * DAY)
    assert register(members, request, NOW + 14 * DAY - timedelta(seconds=1))


def test_an_invitation_is_no_other_hospitals(three: Members) -> None:
    members, _, ticket = invite(three, "hospital-d", NOW)
    _refused(members, _answer("hospital-a", ticket), "name hospital-a is taken")
    _refused(members, _answer("hospital-e", ticket), "hospital-e was not invited")
    members, _, _ = invite(members, "hospital-e", NOW)
    _refused(members, _answer("hospital-e", ticket), "answers another invitation")


def test_a_key_counts_once_whoever_brings_it_and_whenever() -> None:
    key = make_key()
    members, _, ticket = invite(Members(), "hospital-a", NOW)
    members, _ = register(members, _answer("hospital-a", ticket, key), NOW)
    members, _, ticket = invite(members, "hospital-b", NOW)
    request = _answer("hospital-b", ticket, key)
    _refused(members, request, "registered before, for hospital-a, and is taken once")
    members = _joined(members, "hospital-a", NOW + DAY)  # with another key
    _refused(members, request, "registered before, for a hospital that has another now")
    members, _ = revoke(members, "hospital-a", NOW + DAY)
    members, _, ticket = invite(members, "hospital-a", NOW + DAY)
    _refused(members, _answer("hospital-a", ticket, key), "registered before.*join-kit --new-key")


def test_a_request_that_was_changed_is_refused() -> None:
    members, _, ticket = invite(Members(), "hospital-a", NOW)
    stolen = _answer("hospital-b", ticket).model_copy(update={"hospital": "hospital-a"})
    _refused(members, stolen, "not signed by its own key")


def test_who_was_revoked_is_out_until_invited_again(three: Members) -> None:
    members, revoked = revoke(three, "hospital-b", NOW + DAY)
    assert revoked.state == "revoked"
    assert revoked.days_left(NOW) is None
    with pytest.raises(SettingsError, match="revoked on 2030-01-02 already"):
        revoke(members, "hospital-b", NOW)
    again = _joined(members, "hospital-b", NOW + 2 * DAY).named("hospital-b")
    assert (again.state, again.is_expired(NOW + 2 * DAY)) == ("registered", False)


def test_revoking_ends_the_open_invitation_too() -> None:
    members, _, ticket = invite(Members(), "hospital-a", NOW)
    members, _ = revoke(members, "hospital-a", NOW)
    _refused(members, _answer("hospital-a", ticket), "hospital-a was revoked on 2030-01-01")


def test_renewing_counts_from_now_and_only_who_is_in(three: Members) -> None:
    _, renewed = renew(three, "hospital-a", NOW + 300 * DAY)
    assert renewed.expires == NOW + 665 * DAY
    assert renewed.fingerprint == three.named("hospital-a").fingerprint
    assert renew(three, "hospital-a", NOW + 400 * DAY)[1].expires == NOW + 765 * DAY
    revoked, _ = revoke(three, "hospital-b", NOW)
    with pytest.raises(SettingsError, match="hospital-b is revoked"):
        renew(revoked, "hospital-b", NOW)
    with pytest.raises(SettingsError, match="called 'nobody'; known are: hospital-a, hospital-b"):
        renew(three, "nobody", NOW)


@pytest.mark.parametrize("name", ["Hospital-A", "HOSPITAL-A"])
def test_names_differ_by_more_than_capitals(three: Members, name: str) -> None:
    with pytest.raises(SettingsError, match="differs from 'hospital-a' by its capitals alone"):
        invite(three, name, NOW)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"hospital = '\.\./up'"):
        invite(Members(), "../up", NOW)


def test_the_file_comes_back_as_it_was_written(tmp_path: Path, three: Members) -> None:
    path = tmp_path / "members.json"
    assert read_members(path) == Members()
    with changing_members(path) as held:
        held[0] = three
    assert read_members(path) == three
    written = path.stat()
    with changing_members(path):
        pass
    assert path.stat().st_mtime_ns == written.st_mtime_ns, "nothing changed, nothing written"


def test_a_refused_change_leaves_the_file(tmp_path: Path, three: Members) -> None:
    path = tmp_path / "members.json"
    with changing_members(path) as held:
        held[0] = three
    before = path.read_bytes()
    with (
        pytest.raises(SettingsError, match="no hospital is called"),
        changing_members(path) as held,
    ):
        held[0], _ = revoke(held[0], "nobody", NOW)
    assert path.read_bytes() == before


def test_changes_at_once_lose_none(tmp_path: Path) -> None:
    path = tmp_path / "members.json"
    names = [f"hospital-{number:02d}" for number in range(20)]

    def add(name: str) -> None:
        with changing_members(path) as held:
            held[0], _, _ = invite(held[0], name, NOW)

    threads = [threading.Thread(target=add, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.hospital for one in read_members(path).members] == names


@pytest.mark.parametrize("text", ["", "{", '{"members": [{"hospital": "a"}]}', "[]"])
def test_a_damaged_file_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "members.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=r"members\.json"):
        read_members(path)


def test_a_registered_member_without_an_end_is_expired() -> None:
    assert Member(hospital="a", state="registered", since=NOW).is_expired(NOW)
