"""Links that work once, sessions that end."""

import pytest

from client.annotation.page import access as access_module
from client.annotation.page.access import SESSION_S, Access


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 5.0

    def monotonic(self) -> float:
        return self.now


def token_in(link: str) -> str:
    return link.partition("?token=")[2]


def test_a_link_becomes_a_session_once() -> None:
    access = Access(8123)
    link = access.fresh_links(["anna"])["anna"]
    assert link.startswith("http://127.0.0.1:8123/enter?token=")
    session = access.enter(token_in(link))
    assert session is not None
    assert access.annotator_of(session) == "anna"
    assert access.enter(token_in(link)) is None
    assert access.annotator_of(session) == "anna", "using the link again does not end the session"


def test_each_annotator_has_a_link_and_a_session_of_their_own() -> None:
    access = Access(8123)
    links = access.fresh_links(["anna", "ben"])
    assert len(set(links.values())) == 2
    sessions = {name: access.enter(token_in(link)) for name, link in links.items()}
    assert {name: access.annotator_of(str(one)) for name, one in sessions.items()} == {
        "anna": "anna",
        "ben": "ben",
    }


def test_a_fresh_link_makes_the_unused_one_worthless() -> None:
    access = Access(8123)
    old, kept = access.fresh_links(["anna"])["anna"], access.fresh_links(["ben"])["ben"]
    fresh = access.fresh_links(["anna"])["anna"]
    assert access.enter(token_in(old)) is None
    assert access.enter(token_in(fresh)) is not None
    assert access.enter(token_in(kept)) is not None


@pytest.mark.parametrize("wrong", ["", "x", "\ud800", "a" * 100_000, "token\x00"])
def test_what_is_no_token_opens_nothing(wrong: str) -> None:
    access = Access(8123)
    access.fresh_links(["anna"])
    assert access.enter(wrong) is None
    assert access.annotator_of(wrong) is None


def test_a_token_is_no_session() -> None:
    access = Access(8123)
    token = token_in(access.fresh_links(["anna"])["anna"])
    assert access.annotator_of(token) is None


def test_a_session_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(access_module, "time", clock)
    access = Access(8123)
    session = str(access.enter(token_in(access.fresh_links(["anna"])["anna"])))
    clock.now += SESSION_S - 1
    assert access.annotator_of(session) == "anna"
    clock.now += 1
    assert access.annotator_of(session) is None


def test_no_secret_is_kept_as_it_is() -> None:
    access = Access(8123)
    token = token_in(access.fresh_links(["anna"])["anna"])
    session = str(access.enter(token))
    assert token not in repr(access)
    assert session not in repr(access)
