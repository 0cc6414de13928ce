"""A release: a round's models as a coordinator gives them out, with all that it takes to use them.

A folder with models.safetensors (the federation's tensors, "segmenter/..." and "student/...") and
release.json. What people want to know of it stands in other files beside these.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field
from safetensors.numpy import load

from common.errors import ReleaseError, SettingsError
from common.plan import FederationPlan
from common.settings_file import Settings, parse_settings
from common.updates import UNREADABLE, Arrays
from common.version import SOFTWARE, release_of
from common.whole_file import write_whole

MODELS, RECORD = "models.safetensors", "release.json"
# Goes up when a program that knows the older one cannot use such a release any more.
GENERATION = 1


class ReleaseRecord(Settings):
    """release.json: which models these are and the plan that they were trained after.

    `models_sha256` is that of models.safetensors; `software` the OneSlice that wrote the release.
    """

    generation: int = GENERATION
    federation: str
    round: int = Field(ge=0)
    plan: FederationPlan
    models_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    software: str


@dataclass(frozen=True)
class Release:
    """A release that was read and found unchanged."""

    record: ReleaseRecord
    arrays: Arrays


def trained_roles(plan: FederationPlan) -> tuple[str, ...]:
    """Which of the networks a federation trains: a plan may leave the student out."""
    return ("segmenter", "student") if plan.training.student_steps_per_round else ("segmenter",)


def write_release(folder: Path, models: bytes, plan: FederationPlan, number: int) -> ReleaseRecord:
    """Writes a round's models, as they lie in a checkpoint, and their record to `folder`.

    The record comes last: it says that the models beside it are whole.

    Raises:
        OSError: the folder cannot be written.
    """
    record = ReleaseRecord(
        federation=plan.federation,
        round=number,
        plan=plan,
        models_sha256=hashlib.sha256(models).hexdigest(),
        software=SOFTWARE,
    )
    write_whole(folder / MODELS, models)
    write_whole(folder / RECORD, record.model_dump_json(indent=2))
    return record


def read_release(folder: Path) -> Release:
    """The release in `folder`; `common.networks.released` makes networks of it.

    Raises:
        ReleaseError: there is none, this version cannot use it, or it was changed.
    """
    record = read_record(folder)
    models = _read(folder / MODELS)
    found = hashlib.sha256(models).hexdigest()
    if found != record.models_sha256:
        raise ReleaseError(
            f"{folder / MODELS} was changed: expected SHA-256 {record.models_sha256}, got {found}. "
            "Fetch the release again"
        )
    try:
        return Release(record, load(models))
    except UNREADABLE as error:
        raise ReleaseError(f"{folder / MODELS} does not hold models: {error}") from None


def read_record(folder: Path) -> ReleaseRecord:
    """The release.json in `folder` alone; nobody has looked at the models.

    Raises:
        ReleaseError: there is none, this version cannot use it, or it was changed.
    """
    path = folder / RECORD
    try:
        values = json.loads(_read(path))
    except UNREADABLE as error:
        raise ReleaseError(f"{path} is no JSON ({error}): fetch the release again") from None
    if not isinstance(values, Mapping):
        raise ReleaseError(f"{path}: expected a release, got {type(values).__name__}")
    # Looked at first: a release of another generation may have other keys.
    generation, software = values.get("generation"), values.get("software")
    if generation != GENERATION:
        raise ReleaseError(
            f"{path}: OneSlice {SOFTWARE} reads releases of generation {GENERATION}, this one is "
            f"of {generation!r} (OneSlice {software!r}): install the OneSlice that wrote it"
        )
    try:
        record = parse_settings(ReleaseRecord, values, str(path))
    except SettingsError as error:
        raise ReleaseError(f"{error}\n(written by OneSlice {software!r})") from None
    _check_plan(record, path)
    return record


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ReleaseError(
            f"expected a release, a folder with {RECORD} and {MODELS}; there is no {path}"
        ) from None
    except OSError as error:
        raise ReleaseError(f"{path} cannot be read ({error.strerror})") from error


def _check_plan(record: ReleaseRecord, path: Path) -> None:
    """The plan's short name is a hash of it; a version with more settings makes another of it."""
    is_ours = release_of(record.software) == release_of(SOFTWARE)
    if is_ours and record.federation != record.plan.federation:
        raise ReleaseError(
            f"{path} was changed: its plan is that of {record.plan.federation}, expected "
            f"{record.federation}. Fetch the release again"
        )
