"""The old model of a stage: the segmenter that came in with the hospital's first round of it.

Its file is written before that round is committed, and named after the round and its request as the
reply is. So the committed round says which file counts: one that a killed process left, or that
another request for the same round brought, is not taken for it.

It holds weights that the federation sent, no data, and stays when a patient is withdrawn.
"""

import logging
from pathlib import Path

from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from client.store.atomic_files import check_room, write_atomically
from client.store.store import Store
from common.updates import Arrays

log = logging.getLogger(__name__)
OLD_MODELS = "old_models"


def old_model_of_stage(
    store: Store, federation: str, rounds: range, digest: str, incoming: Arrays
) -> Arrays:
    """What came in with the first committed round of a stage; `incoming`, now kept, if none was.

    `rounds` are those of the stage up to the one that is asked now, with a request of that digest.
    A file that is lost or damaged, which the log says, is replaced by what comes in now. Files of
    stages that are over go with the second round of the next.
    """
    number = rounds[-1]
    first = _first_committed(store, federation, rounds[:-1]) or (number, digest)
    path = _path(store, federation, *first)
    weights = _load(path)
    if weights is None:
        if first[0] < number:
            log.warning("%s lost its old model: round %d's takes its place", store.folder, number)
        weights = incoming
        _keep(store, path, incoming)
    if first[0] < number:
        for other in path.parent.iterdir():
            if other != path:
                other.unlink(missing_ok=True)
    return weights


def _first_committed(store: Store, federation: str, rounds: range) -> tuple[int, str] | None:
    """The round and the digest of its request."""
    query = (
        "SELECT round, digest FROM rounds WHERE federation = ? AND round >= ? AND round < ? "
        "ORDER BY round LIMIT 1"
    )
    with store.read() as connection:
        row = connection.execute(query, (federation, rounds.start, rounds.stop)).fetchone()
    return None if row is None else (int(row["round"]), str(row["digest"]))


def _load(path: Path) -> Arrays | None:
    try:
        weights: Arrays = load_file(path)
    except (OSError, SafetensorError):
        return None
    return weights


def _keep(store: Store, path: Path, weights: Arrays) -> None:
    data = save(weights)
    check_room(store.folder, len(data))
    write_atomically(path, lambda unfinished: _write(unfinished, data))


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


def _path(store: Store, federation: str, round_number: int, digest: str) -> Path:
    name = f"{round_number:05d}-{digest[:16]}.safetensors"
    return store.folder / OLD_MODELS / federation / name
