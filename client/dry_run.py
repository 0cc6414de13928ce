"""The reply that the next round would get, made by the same code on a copy of the store."""

import json
from dataclasses import dataclass

from client.local_round import Hospital, answer_or_raise
from client.store.audit import newest_row
from client.store.lock import among_others
from client.store.rounds import kept_models, latest_round
from client.store.store import Store
from client.store.trial_copy import trial_copy
from common.errors import SettingsError
from common.networks.correspondence import build_correspondence
from common.networks.embedding import build_embedding
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.updates import (
    CORRESPONDENCE,
    Arrays,
    RoundRequest,
    decode_update,
    encode_request,
    trained_in,
)


@dataclass(frozen=True)
class Trial:
    """A round that was tried.

    Attributes:
        round: its number.
        reply: the message that would leave.
        stayed_out: why the hospital's policy would keep it from taking part; None if it would not.
    """

    round: int
    reply: bytes
    stayed_out: str | None


def try_next_round(hospital: Hospital, plan: FederationPlan) -> Trial:
    """Runs the hospital's next round of a federation; nothing of it stays, nothing is sent.

    What the coordinator will send is not known before it does: in its place stand the hospital's
    own last weights, or the plan's first ones. Names, shapes, types and sizes of the real reply are
    these; scores and losses may differ.

    Raises:
        SettingsError: the plan has no round left.
        OneSliceError: the round would fail.
    """
    store = hospital.store
    with among_others(store), trial_copy(store) as copy:
        number = max(latest_round(copy, plan.federation), plan.begins_after) + 1
        if number > plan.num_rounds:
            raise SettingsError(f"all {plan.num_rounds} rounds of {plan.name!r} are answered")
        request = RoundRequest(action="train", plan=plan, round=number)
        message = encode_request(request, _stand_in(copy, plan, number))
        before = newest_row(copy, "stayed_out")
        reply = answer_or_raise(Hospital(copy, hospital.device), message)
        after = newest_row(copy, "stayed_out")
        stayed_out = None
        if after is not None and after != before:
            stayed_out = str(json.loads(after.details)["why"])
    return Trial(number, reply, stayed_out)


def _stand_in(store: Store, plan: FederationPlan, number: int) -> Arrays:
    """What the coordinator might send for a round."""
    arrays = networks_to_arrays({**build_networks(plan), **build_embedding(plan)})
    if plan.correspondence.rounds > 0:
        network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
        arrays |= networks_to_arrays({CORRESPONDENCE: network})
    for _, reply in reversed(list(kept_models(store, plan.federation))):
        arrays |= decode_update(reply).arrays
    return trained_in(plan, number, arrays) if plan.is_self_learning(number) else arrays
