"""What a coordinator sees at a glance while nothing runs."""

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server.consortium import Consortium, ConsortiumSettings, make_consortium
from server.consortium_status import consortium_status, consortium_text
from server.members import Member, Members, changing_members

NOW = datetime.now(UTC)


@pytest.fixture
def consortium(tmp_path: Path) -> Consortium:
    with socket.socket() as one:  # nothing listens there afterwards
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    settings = ConsortiumSettings(name="north", addresses=("127.0.0.1",), superlink_port=port)
    return make_consortium(tmp_path / "consortium", settings, NOW)


def test_a_hospital_whose_year_is_over_is_named_with_what_to_do(consortium: Consortium) -> None:
    ends = {"far": NOW + timedelta(days=99), "over": NOW - timedelta(days=1)}
    with changing_members(consortium.members_file) as held:
        held[0] = Members(
            members=tuple(
                Member(hospital=name, state="registered", since=NOW, expires=end)
                for name, end in ends.items()
            )
        )
    status = consortium_status(consortium)
    far, over = status.hospitals
    assert (far.state, far.what_to_do) == ("registered", "")
    assert over.state == "registered, expired"
    assert over.what_to_do == "its year is over: `oneslice coordinator renew over`, or `revoke` it"
    assert "warning: the membership of over ended on" in consortium_text(status)


def test_text_from_elsewhere_moves_no_cursor_and_adds_no_line(consortium: Consortium) -> None:
    status = consortium_status(consortium).model_copy(
        update={"problem": "no\x1b[2K\r", "damaged": ("first: \u202e\n  north is up",)}
    )
    lines = consortium_text(status).split("\n")
    assert all(line.isprintable() for line in lines)
    assert r"problem: no\x1b[2K\r" in lines
    assert r"damaged: first: \u202e\n  north is up" in lines
