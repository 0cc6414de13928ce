"""The only way out of a hospital: every reply is checked and written down before it leaves."""

import hashlib

from pydantic import ValidationError

from client.policy import read_policy
from client.store.audit import SENDING, write_audit
from client.store.store import Store
from common.clipping import clip_update, update_norm
from common.errors import BadReplyError, EgressError
from common.plan import FederationPlan, Wire
from common.updates import Arrays, LocalUpdate, Note, check_arrays, encode_update
from common.wire import ROUNDING, from_wire, to_wire


def let_out(store: Store, update: LocalUpdate, asked: Arrays, plan: FederationPlan) -> bytes:
    """The reply as bytes, after the checks and the entry in the audit log.

    Numbers that the hospital's policy keeps back are taken out first, and a model that moved
    further than it allows is brought back.

    Args:
        store: the hospital's.
        update: what is to leave, its tensors as the plan has them travel.
        asked: those of the tensors that came which the round trains; a model that leaves has the
            same names and shapes, and whoever takes it reads the same dtypes.
        plan: for which it is; the audit log tells.

    Raises:
        EgressError: a tensor or a number is not one that may leave; nothing has left.
    """
    policy = read_policy(store.folder)
    update = LocalUpdate(update.arrays, policy.let_through(update.note))
    try:
        Note.model_validate(update.note.model_dump())
        model = from_wire(update.arrays, asked, plan.wire)
        if model:
            check_arrays(model, asked)
    except (ValidationError, BadReplyError) as error:
        raise EgressError(f"this reply may not leave: {error}") from error
    if policy.most_update_norm is not None:
        brought_back = _bring_back(update.arrays, model, asked, policy.most_update_norm, plan.wire)
        update = LocalUpdate(brought_back, update.note)
    if not policy.allows_networks(update.arrays):
        raise EgressError(
            f"this reply may not leave: it holds other networks than {list(policy.networks)}, "
            "which the hospital's policy lets leave"
        )
    data = encode_update(update)
    norm = update_norm(from_wire(update.arrays, asked, plan.wire), asked)
    _note_that_it_leaves(store, plan.federation, update, data, norm)
    return data


def _bring_back(
    leaving: Arrays, model: Arrays, asked: Arrays, largest_norm: float, wire: Wire
) -> Arrays:
    """What leaves of the model, not further from what was asked than `largest_norm`."""
    if update_norm(model, asked) <= largest_norm:
        return leaving
    # Rounded once more it may be longer again, and what is sent anew would be shortened anew.
    shorter = largest_norm * (1 - ROUNDING[wire])
    return to_wire(clip_update(model, asked, shorter), asked, wire)


def _note_that_it_leaves(
    store: Store, federation: str, update: LocalUpdate, data: bytes, norm: float
) -> None:
    """The audit log's row: names, shapes, types and sizes of tensors, and all numbers.

    `norm` tells how far the model moved.

    The digest of the message tells later which stored reply it was.
    """
    tensors = {name: f"{array.dtype} {array.shape}" for name, array in update.arrays.items()}
    sent = {
        "federation": federation,
        "bytes": len(data),
        "digest": hashlib.sha256(data).hexdigest(),
        "update_norm": round(norm, 6),
        "tensors": tensors,
        "note": update.note.model_dump(mode="json"),
    }
    write_audit(store, SENDING, sent)
