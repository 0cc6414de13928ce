"""Who is heard, who is waited for, and for how long."""

import time
from collections.abc import Callable

import pytest
from fake_hospitals import ChangingGrid, FakeHospitals, Misdeed, RegisteredGrid, SlowGrid
from flwr.app import Message

from common.errors import QuorumError
from common.messages import content_to_update, request_to_content
from common.plan import FederationPlan
from common.updates import RoundRequest
from server.asking import ask, greet, wait_for_hospitals
from simulations.local_grid import LocalGrid

MakePlan = Callable[..., FederationPlan]
NAMES = {1: "north", 2: "south", 3: "west"}


def _hello(plan: FederationPlan, *nodes: int) -> list[Message]:
    hello = request_to_content(RoundRequest(action="hello", plan=plan, round=0), {})
    return [Message(hello, node, "query") for node in nodes]


def _names(replies: dict[int, Message]) -> dict[int, str]:
    return {node: content_to_update(reply.content).note.hospital for node, reply in replies.items()}


def test_replies_come_by_node(plan: FederationPlan) -> None:
    grid = FakeHospitals(NAMES).grid()
    assert _names(ask(grid, _hello(plan, 3, 1), 5.0)) == {1: "north", 3: "west"}


def test_nobody_asked_is_nobody_waited_for() -> None:
    started = time.monotonic()
    assert ask(FakeHospitals(NAMES).grid(), [], 60.0) == {}
    assert time.monotonic() - started < 1


def test_slow_replies_are_waited_for(plan: FederationPlan) -> None:
    grid = FakeHospitals(NAMES).grid()
    grid.__class__ = SlowGrid
    grid.looks_without_reply = 5
    assert _names(ask(grid, _hello(plan, 1, 2), 5.0)) == {1: "north", 2: "south"}


def test_at_the_deadline_those_that_came_are_returned(plan: FederationPlan) -> None:
    grid = FakeHospitals(NAMES, {("south", 0): "silent"}).grid()
    started = time.monotonic()
    replies = ask(grid, _hello(plan, 1, 2, 3), 0.2)
    assert 0.2 <= time.monotonic() - started < 1
    assert _names(replies) == {1: "north", 3: "west"}


class _AnswersAsNodeOne(LocalGrid):
    """Puts node 1 as the sender of every reply, as a SuperLink does for a dead node."""

    def pull_messages(self, message_ids: object) -> list[Message]:
        replies = super().pull_messages(message_ids)
        for reply in replies:
            reply.metadata.__dict__["_src_node_id"] = 1
        return replies


def test_what_hospitals_greet_with_is_told_of_those_that_come_in(plan: FederationPlan) -> None:
    told: list[str] = []
    grid = FakeHospitals(NAMES, {("west", 0): "silent"}).grid()
    greet(grid, plan, {2: "south"}, 0.1, on_greeting=lambda note: told.append(note.hospital))
    assert told == ["north"]
    told.clear()
    limits = plan.limits.model_copy(update={"hospitals": 2})
    whole = plan.model_copy(update={"limits": limits})
    wait_for_hospitals(grid, whole, on_greeting=lambda note: told.append(note.hospital))
    assert told == ["north", "south"]


def test_a_reply_belongs_to_the_node_that_was_asked(plan: FederationPlan) -> None:
    grid = FakeHospitals(NAMES).grid()
    grid.__class__ = _AnswersAsNodeOne
    replies = ask(grid, _hello(plan, 2, 3), 5.0)
    assert {reply.metadata.src_node_id for reply in replies.values()} == {1}
    assert _names(replies) == {2: "south", 3: "west"}


def test_only_nodes_that_are_not_known_are_greeted(plan: FederationPlan) -> None:
    hospitals = FakeHospitals(NAMES)
    assert greet(hospitals.grid(), plan, {2: "south"}, 5.0) == NAMES
    assert sorted(hospitals.asked) == [("north", "hello", 0), ("west", "hello", 0)]


def test_who_is_offline_is_no_longer_known(plan: FederationPlan) -> None:
    hospitals = FakeHospitals({1: "north"})
    assert greet(hospitals.grid(), plan, {1: "north", 9: "gone"}, 5.0) == {1: "north"}
    assert hospitals.asked == []


@pytest.mark.parametrize("misdeed", ["silent", "error", "garbage", "failed", "nothing"])
def test_who_does_not_greet_stays_out(plan: FederationPlan, misdeed: Misdeed) -> None:
    grid = FakeHospitals(NAMES, {("south", 0): misdeed}).grid()
    assert greet(grid, plan, {}, 0.1) == {1: "north", 3: "west"}


def test_of_two_nodes_with_one_name_the_first_is_in(plan: FederationPlan) -> None:
    grid = FakeHospitals({3: "north", 1: "south", 2: "north"}).grid()
    assert greet(grid, plan, {}, 5.0) == {1: "south", 2: "north"}


def test_a_name_in_use_cannot_be_taken_by_a_lower_node(plan: FederationPlan) -> None:
    grid = FakeHospitals({1: "north", 2: "north"}).grid()
    assert greet(grid, plan, {2: "north"}, 5.0) == {2: "north"}


def test_a_key_speaks_for_the_hospital_that_it_was_registered_for_and_no_other(
    plan: FederationPlan,
) -> None:
    grid = FakeHospitals({1: "north", 2: "south"}).grid()
    grid.__class__ = RegisteredGrid
    grid.registered = {1: "north", 2: "east"}
    refusals: list[str] = []
    assert greet(grid, plan, {}, 5, refusals.append) == {1: "north"}
    assert refusals == ["east's key was used by one that calls itself south"]


def test_all_expected_hospitals_are_waited_for(make_plan: MakePlan) -> None:
    plan = make_plan(limits={"hospitals": 3, "join_deadline_s": 30})
    hospitals = FakeHospitals(NAMES)
    grid = hospitals.grid()
    grid.__class__ = ChangingGrid
    grid.looks = [set(), {2}, {2}, {2, 3}, {1, 2, 3}]
    assert wait_for_hospitals(grid, plan) == NAMES
    assert len(hospitals.asked) == 3, "each was greeted once"


def test_at_the_deadline_a_quorum_is_enough(make_plan: MakePlan) -> None:
    plan = make_plan(limits={"hospitals": 3, "quorum": 2, "join_deadline_s": 0.1})
    grid = FakeHospitals({1: "north", 2: "south"}).grid()
    assert wait_for_hospitals(grid, plan) == {1: "north", 2: "south"}


def test_too_few_hospitals_are_named(make_plan: MakePlan) -> None:
    plan = make_plan(limits={"hospitals": 3, "quorum": 3, "join_deadline_s": 0.1})
    grid = FakeHospitals({2: "south", 1: "north"}).grid()
    message = r"expected 3 hospitals \(at least 3\), 2 joined within 0\.1 s: \['north', 'south'\]"
    with pytest.raises(QuorumError, match=message):
        wait_for_hospitals(grid, plan)


def test_a_silent_node_does_not_make_the_waiting_longer_than_its_deadline(
    make_plan: MakePlan,
) -> None:
    plan = make_plan(limits={"hospitals": 3, "quorum": 2, "join_deadline_s": 0.5})
    grid = FakeHospitals(NAMES, {("south", 0): "silent"}).grid()
    started = time.monotonic()
    assert wait_for_hospitals(grid, plan) == {1: "north", 3: "west"}
    assert time.monotonic() - started < 0.9
