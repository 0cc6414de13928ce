"""What came back of a round: the answers that count, and who has none that does."""

from dataclasses import replace

from flwr.app import Message, RecordDict

from common.errors import BadReplyError
from common.messages import content_to_update
from common.updates import Arrays, LocalUpdate, RoundRequest
from common.wire import bytes_by_network, from_wire
from server.round_state import Dropped
from server.strategy import check_update

Answers = dict[str, tuple[Message, LocalUpdate]]


def sort_out(
    hospitals: dict[int, str], replies: dict[int, Message], expected: Arrays, request: RoundRequest
) -> tuple[Answers, dict[str, dict[str, int]], list[Dropped]]:
    """The answers that count, by hospital, their bytes as they came, and who has none that counts.

    Answers have whole models; bytes are those of their tensors, by hospital and network.
    """
    answers: Answers = {}
    bytes_up: dict[str, dict[str, int]] = {}
    dropped = []
    clips = request.plan.privacy.clipping_norm is not None
    for node, hospital in hospitals.items():
        reply = replies.get(node)
        if reply is None:
            dropped.append(drop(hospital, "silent", "no answer within the deadline"))
        elif reply.has_error():
            dropped.append(drop(hospital, "failed", f"Flower error {reply.error.code}"))
        else:
            try:
                update = content_to_update(reply.content)
                reply.content = RecordDict()  # a second copy of the model
                # Who failed before it could read the request does not know its round, so this
                # comes before the checks: they would hide the reason.
                if update.note.outcome == "failed":
                    dropped.append(drop(hospital, "failed", update.note.reason))
                    continue
                num_bytes = bytes_by_network(update.arrays)
                models = from_wire(update.arrays, expected, request.plan.wire)
                update = replace(update, arrays=models)
                check_update(update, hospital, expected, request.round, must_move=clips)
                answers[hospital], bytes_up[hospital] = (reply, update), num_bytes
            except BadReplyError as error:
                dropped.append(drop(hospital, "bad_reply", str(error)))
    return answers, bytes_up, dropped


def drop(hospital: str, kind: str, reason: str) -> Dropped:
    """Who has no answer that counts, and why not."""
    return Dropped.model_validate({"hospital": hospital, "kind": kind, "reason": reason})
