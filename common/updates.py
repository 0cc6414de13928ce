"""All that crosses the wire: what a round asks of a hospital, and what the hospital answers.

Both travel as safetensors bytes (tensors, and a JSON text in the header), a format that cannot
carry code. The same checks run before a reply leaves the hospital and when it reaches the server.
"""

import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import BadReplyError, SettingsError
from common.learning_settings import Share
from common.plan import FederationPlan, LabelName, Name
from common.printable import PRINTABLE
from common.settings_file import Settings, parse_settings
from common.version import PROTOCOL, SOFTWARE, check_same_version

Arrays = dict[str, np.ndarray]
CORRESPONDENCE = "correspondence"
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]
# What safetensors and the JSON reader raise on bytes that are not ours; a header can be nested
# deeper than Python's recursion goes.
UNREADABLE = (ValueError, KeyError, TypeError, RecursionError, SafetensorError)
Action = Literal["hello", "train", "score"]
# What a hospital's own files call a label of the plan.
LONGEST_LOCAL_NAME, MOST_LOCAL_NAMES = 64, 8
LocalName = Annotated[str, Field(pattern=f"^{PRINTABLE}{{1,{LONGEST_LOCAL_NAME}}}$")]
LocalNames = Annotated[tuple[LocalName, ...], Field(max_length=MOST_LOCAL_NAMES)]
Outcome = Literal[
    "self_learned", "trained", "replay_only", "abstained", "scored", "greeted", "failed"
]

# What a hospital's own policy may keep back: fields of `Note` that the federation can do without.
Withholdable = Literal[
    "label_names",
    "task",
    "scans_per_task",
    "voxels_per_task",
    "used",
    "replayed",
    "skipped",
    "quarantined",
    "annotated_slices",
    "scores",
    "loss",
    "student_loss",
    "seconds",
]


class RoundRequest(Settings):
    """What the server asks: greet, train on a round, or only score the model.

    `held_back_dice` is each class's Dice on all hospitals' held-back slices in the round before,
    where there are enough of them.
    """

    action: Action
    protocol: int = PROTOCOL
    software: str = Field(default=SOFTWARE, max_length=64)
    plan: FederationPlan
    round: Count
    proximal_mu: float = Field(default=0.0, ge=0)
    held_back_dice: dict[LabelName, Share] = {}

    @model_validator(mode="after")
    def _check(self) -> "RoundRequest":
        # A plan that goes on from an earlier one greets and scores before its own first round, too.
        first = self.plan.begins_after + 1 if self.action == "train" else 0
        last = self.plan.num_rounds
        if not first <= self.round <= last:
            raise ValueError(f"round {self.round}: the plan has rounds {first} to {last}")
        if self.proximal_mu > self.plan.strategy.proximal_mu:
            raise ValueError(f"proximal_mu {self.proximal_mu} is more than the plan's")
        return self


class TaskScore(Settings):
    """How the incoming model did on a task's held-back scans: Dice pooled over their slices."""

    task: Name
    dice: dict[LabelName, Share]
    cases: Count
    missed: Count

    @property
    def mean_dice(self) -> float | None:
        """Mean over the classes; None if none was scored."""
        return sum(self.dice.values()) / len(self.dice) if self.dice else None


class Note(Settings):
    """The numbers of a reply. Only these leave; a key that is not here cannot.

    `withheld` names those that the hospital's policy keeps back: they are 0, empty or none here,
    which says nothing then. `label_names` is what the hospital's own files call the plan's labels;
    it comes with a greeting alone.
    """

    hospital: Name
    outcome: Outcome
    reason: str = Field(default="", max_length=200, pattern=f"^{PRINTABLE}*$")
    protocol: int = PROTOCOL
    round: Count = 0
    label_names: dict[LabelName, LocalNames] = Field(default={}, max_length=254)
    task: Name | None = None
    num_examples: int = Field(default=0, ge=0, le=10_000_000)
    scans_per_task: dict[Name, Count] = {}
    voxels_per_task: dict[Name, Count] = {}
    used: Count = 0
    replayed: Count = 0
    skipped: Count = 0
    quarantined: Count = 0
    annotated_slices: Count = 0
    scores: tuple[TaskScore, ...] = ()
    loss: float | None = None
    student_loss: float | None = None
    seconds: dict[Literal["train", "propagate", "score"], Seconds] = {}
    withheld: tuple[Withholdable, ...] = ()


@dataclass(frozen=True)
class LocalUpdate:
    """A hospital's answer: the tensors that the round trained (or none) and numbers."""

    arrays: Arrays
    note: Note


def encode_request(request: RoundRequest, arrays: Arrays) -> bytes:
    """The request as bytes."""
    return _pack(arrays, request.model_dump_json())


def decode_request(data: bytes) -> tuple[RoundRequest, Arrays]:
    """The request in the bytes; every value was checked against the plan's ranges.

    Raises:
        VersionError: the coordinator runs another version of OneSlice.
        SettingsError: it is no request, or a value is out of range.
    """
    try:
        arrays, text = _unpack(data)
        values = json.loads(text)
    except UNREADABLE as error:
        raise SettingsError(f"expected a request in safetensors, got {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"expected a request, got {type(values).__name__}")
    # Looked at first: a request of another version may have other keys.
    check_same_version(values.get("software"), values.get("protocol"))
    return check_request(values), arrays


def action_of(data: bytes) -> str | None:
    """The action that a request names, its tensors left alone; None if it names none."""
    try:
        action = json.loads(_text_of(data))["action"]
    except UNREADABLE:
        return None
    return action if isinstance(action, str) else None


def check_request(values: object) -> RoundRequest:
    """The request in values read from JSON, whichever version it names.

    Raises:
        SettingsError: it is no request, or a value is out of range.
    """
    return parse_settings(RoundRequest, values, "request")


def encode_update(update: LocalUpdate) -> bytes:
    """The reply as bytes."""
    return _pack(update.arrays, update.note.model_dump_json())


def encode_refusal(note: Note) -> bytes:
    """A failure's note in the few keys that every protocol has, for a reader of another one."""
    return _pack({}, note.model_dump_json(include={"hospital", "outcome", "reason", "protocol"}))


def decode_update(data: bytes) -> LocalUpdate:
    """The reply in the bytes.

    Raises:
        BadReplyError: it is no reply of this protocol.
    """
    try:
        arrays, text = _unpack(data)
    except UNREADABLE as error:
        raise BadReplyError(f"expected a reply in safetensors, got {error}") from None
    return LocalUpdate(arrays, check_note(text))


def check_note(text: str) -> Note:
    """The note in a JSON text.

    Raises:
        BadReplyError: it is no note of this protocol, or a value is out of range.
    """
    try:
        values = json.loads(text)
    except UNREADABLE as error:
        raise BadReplyError(f"expected a note in JSON, got {error}") from None
    # A note of another protocol may have other keys, so the protocol is looked at first.
    came = values.get("protocol") if isinstance(values, dict) else None
    if came != PROTOCOL:
        raise BadReplyError(
            f"the hospital speaks protocol {came!r}, this coordinator {PROTOCOL}: "
            "install the same version of OneSlice on both sides"
        )
    try:
        return Note.model_validate_json(text)
    except ValidationError as error:
        raise BadReplyError(f"expected a note with the agreed numbers, got {error}") from None


def trained_in(plan: FederationPlan, round_number: int, arrays: Arrays) -> Arrays:
    """Those of a federation's tensors that a round trains: they come back and are averaged.

    "correspondence/..." alone while the federation learns by itself, all others afterwards.
    """
    learning = plan.is_self_learning(round_number)
    prefix = f"{CORRESPONDENCE}/"
    return {name: one for name, one in arrays.items() if name.startswith(prefix) == learning}


def check_arrays(arrays: Arrays, expected: Arrays) -> None:
    """Refuses tensors that differ from `expected` in names, shapes, dtypes, or are not finite.

    Raises:
        BadReplyError: says which tensor, what was expected and what came.
    """
    missing, unknown = sorted(set(expected) - set(arrays)), sorted(set(arrays) - set(expected))
    if missing or unknown:
        raise BadReplyError(
            f"expected the tensors that were sent out; missing {missing[:3]}, "
            f"not asked for {unknown[:3]}"
        )
    for name, wanted in expected.items():
        came = arrays[name]
        if came.shape != wanted.shape or came.dtype != wanted.dtype:
            raise BadReplyError(
                f"{name}: expected {wanted.dtype} {wanted.shape}, got {came.dtype} {came.shape}"
            )
        if not np.isfinite(came).all():
            raise BadReplyError(f"{name}: expected finite numbers, got NaN or infinity")


def _pack(arrays: Arrays, text: str) -> bytes:
    # safetensors takes the memory as it lies: what is not in C order would come back scrambled.
    contiguous = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    packed: bytes = save(contiguous, metadata={"json": text})
    return packed


def _unpack(data: bytes) -> tuple[Arrays, str]:
    arrays: Arrays = load(data)
    return arrays, _text_of(data)


def _text_of(data: bytes) -> str:
    # safetensors reads the header's text only from files, so it is taken from the bytes here:
    # eight bytes of length, then JSON.
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    text: str = header["__metadata__"]["json"]
    return text
