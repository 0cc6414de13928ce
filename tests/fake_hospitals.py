"""Hospitals without scans: they add to every weight a number that is theirs, and can misbehave."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from flwr.app import Message
from flwr.proto.node_pb2 import NodeInfo

from client.app import Answer, NodeConfig, make_client_app
from common.updates import (
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    decode_request,
    encode_update,
    trained_in,
)
from common.wire import to_wire
from server.rounds import first_state
from simulations.local_grid import LocalGrid, NoAnswer

Misdeed = Literal[
    "silent", "error", "garbage", "nan", "failed", "lost", "impostor", "nothing", "everything"
]
SCANS = {"east": 1, "north": 2, "south": 3, "west": 10}


@dataclass
class FakeHospitals:
    """Hospitals by node id; `misdeeds` by hospital and round (round 0 is the greeting)."""

    names: Mapping[int, str]
    misdeeds: Mapping[tuple[str, int], Misdeed] = field(default_factory=dict)
    asked: list[tuple[str, str, int]] = field(default_factory=list)
    proximal_mus: list[float] = field(default_factory=list)

    def grid(self) -> LocalGrid:
        """A grid on which they are all online."""
        return LocalGrid(
            make_client_app(self._answer_of),
            {node: {"hospital": name} for node, name in self.names.items()},
        )

    def _answer_of(self, config: NodeConfig) -> Answer:
        name = str(config["hospital"])
        return lambda data: self._answer(name, data)

    def _answer(self, name: str, data: bytes) -> bytes:
        request, arrays = decode_request(data)
        self.asked.append((name, request.action, request.round))
        self.proximal_mus.append(request.proximal_mu)
        scored = request.action == "score"
        misdeed = None if scored else self.misdeeds.get((name, request.round))
        match misdeed:
            case "silent":
                raise NoAnswer
            case "error":
                raise ZeroDivisionError
            case "garbage":
                return b"garbage"
        return encode_update(_update(name, request, arrays, misdeed))


# What a hospital's note says instead, and no model comes with it. "lost": the worker could not be
# reached, so nobody read the round's number.
INSTEAD: dict[str, dict[str, object]] = {
    "impostor": {"hospital": "someone-else"},
    "failed": {"outcome": "failed", "reason": "StoreError: see the hospital's log"},
    "lost": {"outcome": "failed", "reason": "the worker cannot be reached", "round": 0},
    "nothing": {"outcome": "abstained"},
}


def _update(
    name: str, request: RoundRequest, arrays: Arrays, misdeed: Misdeed | None
) -> LocalUpdate:
    note = Note(hospital=name, outcome="greeted", round=request.round)
    if misdeed in INSTEAD:
        return LocalUpdate({}, note.model_copy(update=INSTEAD[misdeed]))
    if request.action != "train":
        outcome = "greeted" if request.action == "hello" else "scored"
        return LocalUpdate({}, note.model_copy(update={"outcome": outcome}))
    # Counted from the first task on: what comes before it must not change the stream.
    own_round = request.round - request.plan.correspondence.rounds
    step = np.float32(SCANS[name] / (7 + own_round))
    asked = trained_in(request.plan, request.round, arrays)
    if misdeed == "everything":
        asked = {**first_state(request.plan).arrays, **arrays}
    # NumPy turns an array without axes into a number as soon as it is reckoned with.
    trained = {key: np.asarray(array * step + step, array.dtype) for key, array in asked.items()}
    if misdeed == "nan":
        trained = {key: np.full_like(array, np.nan) for key, array in trained.items()}
    counted = {"outcome": "trained", "num_examples": SCANS[name]}
    leaving = to_wire(trained, asked, request.plan.wire)
    return LocalUpdate(leaving, note.model_copy(update=counted))


class ChangingGrid(LocalGrid):
    """A grid on which other nodes are online at every look; the last set stays."""

    looks: list[set[int]]

    def get_node_ids(self) -> list[int]:
        now = self.looks.pop(0) if len(self.looks) > 1 else self.looks[0]
        return [node for node in super().get_node_ids() if node in now]


class RegisteredGrid(LocalGrid):
    """A grid whose nodes' keys were registered for names."""

    registered: dict[int, str]

    def get_nodes(self) -> list[NodeInfo]:
        return [NodeInfo(node_id=node, name=self.registered[node]) for node in self.get_node_ids()]


class SlowGrid(LocalGrid):
    """A grid that has no reply until it was looked at some times."""

    looks_without_reply: int

    def pull_messages(self, message_ids: object) -> list[Message]:
        self.looks_without_reply -= 1
        return [] if self.looks_without_reply >= 0 else super().pull_messages(message_ids)
