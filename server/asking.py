"""Asks hospitals and waits for their answers: our own poll, with a deadline.

Flower's `send_and_receive` sleeps 3 s between looks and gives no account of who stayed silent.
"""

import logging
import time
from collections.abc import Callable

from flwr.app import Message
from flwr.serverapp import Grid

from common.errors import BadReplyError, QuorumError
from common.messages import content_to_update, request_to_content
from common.plan import FederationPlan
from common.printable import printable
from common.updates import Note, RoundRequest

log = logging.getLogger(__name__)

FIRST_LOOK_S, LONGEST_PAUSE_S = 0.005, 1.0
# The longest that the others wait for a newcomer's greeting; Flower's own floor for it is 7 s, and
# after a killed process it needs about 60 s to notice.
GREETING_S = 60.0
NUM_PAUSES_AFTER_REFUSAL = 30


def nobody_told(_: object) -> None:
    """Nobody wants to know."""


def ask(
    grid: Grid,
    messages: list[Message],
    deadline_s: float,
    on_waiting: Callable[[set[int]], None] = nobody_told,
) -> dict[int, Message]:
    """Sends the messages; the replies by node id, those that came within the deadline.

    The list is empty afterwards: what is on its way would hold a model for as long as all wait.
    `on_waiting` is told of the nodes whose reply is still to come, first and at each change.
    """
    told = {message.metadata.dst_node_id for message in messages}
    on_waiting(told)
    node_of = {
        message_id: message.metadata.dst_node_id
        for message_id, message in zip(grid.push_messages(messages), messages, strict=True)
    }
    messages.clear()
    replies: dict[int, Message] = {}
    pause_s, until = FIRST_LOOK_S, time.monotonic() + deadline_s
    while True:
        waiting = [message_id for message_id, node in node_of.items() if node not in replies]
        for reply in grid.pull_messages(waiting) if waiting else ():
            # SuperLink answers for a dead node as node 1, so the sender is looked up by request.
            replies[node_of[reply.metadata.reply_to_message_id]] = reply
        if (missing := set(node_of.values()) - replies.keys()) != told:
            told = missing
            on_waiting(missing)
        left_s = until - time.monotonic()
        if len(replies) == len(node_of) or left_s <= 0:
            return replies
        time.sleep(min(pause_s, left_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def greet(
    grid: Grid,
    plan: FederationPlan,
    known: dict[int, str],
    deadline_s: float,
    on_refusal: Callable[[str], None] = nobody_told,
    on_greeting: Callable[[Note], None] = nobody_told,
) -> dict[int, str]:
    """The names of all nodes online, after asking those that are not in `known`.

    A node stays out that does not answer, refuses the plan, or takes a name that is in use or was
    registered for another key; `on_refusal` is told why, in a sentence. `on_greeting` is told what
    the others greet with.
    """
    # Only where nodes are registered with their keys do they have a name here.
    online = {node.node_id: node.name for node in grid.get_nodes()}
    names = {node: name for node, name in known.items() if node in online}
    hello = request_to_content(RoundRequest(action="hello", plan=plan, round=0), {})
    messages = [Message(hello, node, "query") for node in sorted(set(online) - set(names))]
    for node, reply in sorted(ask(grid, messages, deadline_s).items()):
        try:
            greeting = _greeting_of(reply, online[node], set(names.values()))
            names[node] = greeting.hospital
            on_greeting(greeting)
        except BadReplyError as error:
            why = printable(str(error))
            log.warning("node %d stays out: %s", node, why)
            on_refusal(why)
    return names


def _greeting_of(reply: Message, registered: str, taken: set[str]) -> Note:
    """What a hospital greets back with.

    Raises:
        BadReplyError: it does not, its key was registered for another name, or another node has
            that name.
    """
    if reply.has_error():
        raise BadReplyError(f"Flower error {reply.error.code}")
    note = content_to_update(reply.content).note
    if note.outcome != "greeted":
        raise BadReplyError(f"{note.hospital} did not take the plan: {note.reason}")
    if registered and note.hospital != registered:
        raise BadReplyError(f"{registered}'s key was used by one that calls itself {note.hospital}")
    if note.hospital in taken:
        raise BadReplyError(f"another node is called {note.hospital!r}")
    return note


def wait_for_hospitals(
    grid: Grid,
    plan: FederationPlan,
    on_look: Callable[[str], None] = nobody_told,
    on_greeting: Callable[[Note], None] = nobody_told,
) -> dict[int, str]:
    """The expected hospitals by node id, as soon as all are there; at the deadline, a quorum.

    `on_look` is told after every look who is there and why others stay out, in a sentence;
    `on_greeting` what each one greets with.

    Raises:
        QuorumError: fewer than the quorum came.
    """
    names: dict[int, str] = {}
    refusals: list[str] = []
    pause_s, until = LONGEST_PAUSE_S, time.monotonic() + plan.limits.join_deadline_s
    while True:
        left_s = max(0.0, until - time.monotonic())
        on_look(_who_is_there(plan, names, refusals))
        refusals.clear()
        longest_s = min(left_s, GREETING_S)
        names = greet(grid, plan, names, longest_s, refusals.append, on_greeting)
        if len(names) >= plan.limits.hospitals:
            return names
        if time.monotonic() >= until:
            break
        # A hospital may take days to approve, and each greeting starts a process there.
        longest_s = NUM_PAUSES_AFTER_REFUSAL * LONGEST_PAUSE_S
        pause_s = min(2 * pause_s, longest_s) if refusals else LONGEST_PAUSE_S
        time.sleep(min(pause_s, max(0.0, until - time.monotonic())))
    if len(names) < plan.limits.quorum:
        raise QuorumError(
            f"expected {plan.limits.hospitals} hospitals (at least {plan.limits.quorum}), "
            f"{len(names)} joined within {plan.limits.join_deadline_s:g} s: "
            f"{sorted(names.values())}{who_stays_out(refusals)}; check that the other hospitals' "
            "services run and that their people approved this plan, and start again"
        )
    return names


def _who_is_there(plan: FederationPlan, names: dict[int, str], refusals: list[str]) -> str:
    there = ", ".join(sorted(names.values())) or "none"
    there += who_stays_out(refusals)
    return f"{len(names)} of {plan.limits.hospitals} hospitals are there: {there}"


def who_stays_out(refusals: list[str]) -> str:
    """The end of a sentence: why nodes stay out; empty if none does."""
    return f"; stays out: {'; '.join(sorted(refusals))}" if refusals else ""
