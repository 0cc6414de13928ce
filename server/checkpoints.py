"""A RoundState on disk, whole or not at all.

One folder per round: it is written under another name, flushed to the disk, then renamed. A run
killed at any moment leaves the rounds before, and perhaps an unfinished folder that nobody reads.
"""

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from common.errors import CheckpointError
from common.plan import FederationPlan
from common.updates import Arrays
from server.promotion import judge_rounds, promoted_round
from server.round_state import RoundRecord, RoundState

MODELS, STRATEGY, STATE = "models.safetensors", "strategy.safetensors", "state.json"
KEPT_ROUNDS = 2


def save_state(folder: Path, state: RoundState, plan: FederationPlan) -> Path:
    """Writes the state to `folder`/round-00012 and returns that path.

    Of older rounds the ends of stages (and of the self-learning), the last two and the promoted one
    stay.

    Raises:
        CheckpointError: the disk is full or may not be written; earlier rounds are untouched.
    """
    target = folder / f"round-{state.round:05d}"
    records = [record.model_dump(mode="json") for record in state.history]
    closing = state.closing.model_dump(mode="json") if state.closing else None
    story = {"federation": plan.federation, "round": state.round, "history": records}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _sweep_unfinished(folder)
        unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=folder))
        _write(unfinished / MODELS, _to_bytes(state.arrays))
        _write(unfinished / STRATEGY, _to_bytes(state.strategy_arrays))
        _write(unfinished / STATE, json.dumps({**story, "closing": closing}).encode())
        _flush_folder(unfinished)
        if target.exists():
            # Only the last round is ever written twice, with the closing scores added. File by
            # file, a kill in between leaves the round as it was: its tensors are the same.
            for name in (MODELS, STRATEGY, STATE):
                (unfinished / name).replace(target / name)
            unfinished.rmdir()
            _flush_folder(target)
        else:
            unfinished.rename(target)
        _flush_folder(folder)
    except OSError as error:
        with suppress(OSError):
            # What is half written would take the room that others need to say so.
            _sweep_unfinished(folder)
        raise CheckpointError(
            f"round {state.round} could not be saved in {folder} ({error.strerror}); earlier "
            "rounds are kept: free some space and run the same command again"
        ) from error
    _prune(folder, state, plan)
    return target


def load_state(folder: Path, plan: FederationPlan) -> RoundState | None:
    """The newest state in `folder`, None if there is none.

    Raises:
        CheckpointError: the checkpoints belong to another plan, or the newest cannot be read.
    """
    rounds = sorted(folder.glob("round-?????"))
    return read_state(rounds[-1], plan) if rounds else None


def read_state(path: Path, plan: FederationPlan) -> RoundState:
    """The state in one round's folder.

    Raises:
        CheckpointError: it belongs to another plan or cannot be read.
    """
    file = path / STATE
    try:
        story = json.loads(file.read_text(encoding="utf-8"))
        if story["federation"] != plan.federation:
            raise CheckpointError(
                f"{path} belongs to the plan {story['federation']!r}, not to "
                f"{plan.federation!r}: give the changed plan another --out; if OneSlice was "
                "updated since, whose new settings are in each plan, go on with the version before"
            )
        history = tuple(RoundRecord.model_validate(record) for record in story["history"])
        closing = RoundRecord.model_validate(story["closing"]) if story["closing"] else None
        number = story["round"]
        file = path / MODELS
        arrays = load(file.read_bytes())
        file = path / STRATEGY
        return RoundState(number, arrays, load(file.read_bytes()), history, closing)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"{file} cannot be read ({error}): remove {path} to resume from the round before"
        ) from error


def _prune(folder: Path, state: RoundState, plan: FederationPlan) -> None:
    # A round is judged when the next is saved, so it was one of the last two until then.
    promoted = promoted_round(judge_rounds(plan, state))
    for path in folder.glob("round-?????"):
        number = int(path.name.removeprefix("round-"))
        is_old = number <= state.round - KEPT_ROUNDS
        if is_old and number != promoted and not plan.ends_stage(number):
            shutil.rmtree(path)


def _sweep_unfinished(folder: Path) -> None:
    for path in folder.glob("unfinished-*"):
        shutil.rmtree(path)


def _to_bytes(arrays: Arrays) -> bytes:
    # safetensors takes the memory as it lies: what is not in C order would come back scrambled.
    packed: bytes = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    return packed


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
