"""What a message to the coordinator holds: every tensor and every number, nothing left out."""

import ast
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.store.audit import FAILED, SENDING, AuditRow, newest_row
from client.store.store import Store
from common.errors import StoreError
from common.updates import LocalUpdate, decode_update


@dataclass(frozen=True)
class Tensor:
    """One tensor of a message."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class Content:
    """A message: its tensors, and the note with all its numbers.

    `num_bytes` counts the whole message, 0 if that was not written down (a failure's fixed reply).
    """

    num_bytes: int
    tensors: tuple[Tensor, ...]
    note: Mapping[str, object]


@dataclass(frozen=True)
class Sent:
    """The newest message that left, as the audit log has it.

    Attributes:
        time: when it was let out, UTC.
        content: what was in it.
        update_norm: how far the model in it had moved (L2); None where the log does not say.
        stored_reply: the very message, if the hospital still keeps it; the digest in the log says
            that it is the same to the byte.
    """

    time: str
    content: Content
    update_norm: float | None
    stored_reply: Path | None


def last_sent(store: Store) -> Sent | None:
    """The newest message that left; None before the first.

    Raises:
        StoreError: the stored reply is not what the audit log says was sent.
    """
    rows = [row for row in (newest_row(store, event) for event in (SENDING, FAILED)) if row]
    if not rows:
        return None
    row = max(rows, key=lambda one: one.number)
    content = _from_log(row)
    path = _stored_reply(store, row)
    if path is not None and content_of(path.read_bytes()) != content:
        raise StoreError(
            f"{path} holds other tensors or numbers than row {row.number} of the audit log says: "
            "verify the log, and find out who had access to the folder"
        )
    norm = json.loads(row.details).get("update_norm")
    return Sent(row.time, content, norm, path)


def content_of(message: bytes) -> Content:
    """What is in the bytes of a message."""
    update = decode_update(message)
    return Content(len(message), _tensors_of(update), update.note.model_dump(mode="json"))


def _tensors_of(update: LocalUpdate) -> tuple[Tensor, ...]:
    return tuple(
        Tensor(name, str(array.dtype), array.shape, array.nbytes)
        for name, array in sorted(update.arrays.items())
    )


def _from_log(row: AuditRow) -> Content:
    details = json.loads(row.details)
    tensors = [_read_tensor(*one) for one in sorted(details.get("tensors", {}).items())]
    return Content(details.get("bytes", 0), tuple(tensors), details["note"])


def _read_tensor(name: str, text: str) -> Tensor:
    """From the log's "float32 (4, 1, 3, 3, 3)"."""
    dtype, _, shape_text = text.partition(" ")
    shape = tuple(int(n) for n in ast.literal_eval(shape_text))
    return Tensor(name, dtype, shape, math.prod(shape) * np.dtype(dtype).itemsize)


def _stored_reply(store: Store, row: AuditRow) -> Path | None:
    digest = json.loads(row.details).get("digest")
    for path in (store.folder / "rounds").glob("*/*.reply"):
        if hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return path
    return None
