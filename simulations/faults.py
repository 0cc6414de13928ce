"""Hospitals that misbehave: by accident, or to spoil the model that all share."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from client.annotation.annotator import Annotator
from client.store.store import Store
from common.plan import Wire
from common.scans import SliceAnnotation, SliceRef
from common.updates import Arrays, LocalUpdate, decode_request, decode_update, encode_update
from common.wire import from_wire, to_wire
from server.strategy import LARGEST_NUM_EXAMPLES
from simulations.local_grid import NoAnswer
from simulations.scenario import Fault


def misbehave(faults: Sequence[Fault], request: bytes, reply: bytes) -> bytes:
    """The reply as a hospital with these faults would send it.

    Raises:
        NoAnswer: it sends none.
        RuntimeError: its software fails.
    """
    asked, received = decode_request(request)
    if asked.action != "train":
        return reply
    for fault in faults:
        if not fault.rounds or asked.round in fault.rounds:
            spoilt = _spoil(fault, decode_update(reply), received, asked.plan.wire)
            reply = encode_update(spoilt)
    return reply


def _spoil(fault: Fault, update: LocalUpdate, received: Arrays, wire: Wire) -> LocalUpdate:
    if fault.kind == "silent":
        raise NoAnswer
    if fault.kind == "raises":
        raise RuntimeError("a simulated failure")
    if fault.kind == "labels_swapped" or not update.arrays:
        return update
    if fault.kind == "claims":
        note = update.note.model_copy(update={"num_examples": LARGEST_NUM_EXAMPLES})
        return LocalUpdate(update.arrays, note)
    if fault.kind == "scaled":
        sent = {name: received[name] for name in update.arrays}
        scaled = scale_update(from_wire(update.arrays, sent, wire), sent, fault.factor)
        return replace(update, arrays=to_wire(scaled, sent, wire))
    arrays = dict(update.arrays)
    name = next(iter(arrays))
    arrays[name] = arrays[name] * float("nan") if fault.kind == "nan" else arrays[name][None]
    return replace(update, arrays=arrays)


def scale_update(arrays: Arrays, received: Arrays, factor: float) -> Arrays:
    """A model that moved `factor` times as far; -1 turns every step round (sign-flip)."""
    return {
        name: np.asarray(received[name] + factor * (array - received[name]), array.dtype)
        for name, array in arrays.items()
    }


@dataclass(frozen=True)
class SwappedLabels:
    """Whoever paints takes the first class for the last, and so on (label-flip)."""

    painter: Annotator

    def paint(self, store: Store, ref: SliceRef, looked_for: tuple[int, ...]) -> SliceAnnotation:
        """The slice with the classes that were looked for in reverse."""
        painted = self.painter.paint(store, ref, looked_for)
        mask = painted.mask.copy()
        classes = painted.looked_for
        for value, other in zip(classes, reversed(classes), strict=True):
            mask[painted.mask == value] = other
        return replace(painted, mask=mask)


def annotator_of(site: str, faults: Sequence[Fault], painter: Annotator) -> Annotator:
    """Who paints at a hospital."""
    swaps = any(fault.site == site and fault.kind == "labels_swapped" for fault in faults)
    return SwappedLabels(painter) if swaps else painter
