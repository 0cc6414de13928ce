"""The folder that predictions are written to: of one model only, and whole at any moment.

model.json comes first and says whose results these are. A scan is done when NAME_prediction.json is
there, which is written after all its other files. Killed in between, it is predicted anew.
"""

import csv
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from client.prediction.model import Model
from client.prediction.outcome import Volume
from client.store.atomic_files import UNFINISHED, check_room, write_atomically
from client.store.orientation import OriginalGeometry
from common.errors import SettingsError, StoreError
from common.file_lock import hold_file
from common.plan import Task
from common.settings_file import Settings

MODEL, VOLUMES, LOCK = "model.json", "volumes.csv", ".predict.lock"
ENDING = "_prediction.json"


class PredictedBy(Settings):
    """model.json: which model the results are of; `task`: what all scans were said to be for."""

    model: str
    federation: str
    round: int
    models_sha256: str
    software: str
    task: str | None

    @classmethod
    def of(cls, model: Model, told: Task | None) -> "PredictedBy":
        """As it stands for a model."""
        record = model.record
        return cls(
            model=model.role,
            federation=record.federation,
            round=record.round,
            models_sha256=record.models_sha256,
            software=record.software,
            task=told.name if told is not None else None,
        )


class Prediction(Settings):
    """NAME_prediction.json: what was found in a scan, and in which files it stands.

    `scan_id` is a digest of its voxels and their place, `original` how they lay in the file;
    `structures` name the labels' numbers.
    """

    scan: str
    scan_id: str
    original: OriginalGeometry
    predicted_by: PredictedBy
    structures: tuple[Volume, ...]
    files: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Results:
    """A folder of results that nobody else writes to."""

    folder: Path
    predicted_by: PredictedBy

    def path(self, name: str, ending: str) -> Path:
        """Where a file of a scan's results lies."""
        return self.folder / f"{name}{ending}"

    def find(self, name: str) -> Prediction | None:
        """A scan's results; None if they are not there, or not whole."""
        return _read(self.path(name, ENDING))

    def finish(self, prediction: Prediction) -> None:
        """Says that a scan's results are there."""
        text = prediction.model_dump_json(indent=2)
        self._write(self.path(prediction.scan, ENDING), text)

    def write_volumes(self) -> None:
        """All scans of the folder in one table: a row for each, a column for each structure."""
        paths = sorted(self.folder.glob(f"*{ENDING}"))
        found = [one for one in map(_read, paths) if one is not None]
        names = list(dict.fromkeys(volume.name for one in found for volume in one.structures))
        text = io.StringIO()
        table = csv.writer(text)
        table.writerow(["scan", *(f"{name} (ml)" for name in names)])
        for one in found:
            ml = {volume.name: volume.volume_ml for volume in one.structures}
            table.writerow([one.scan, *(ml.get(name, "") for name in names)])
        self._write(self.folder / VOLUMES, text.getvalue())

    def _write(self, path: Path, text: str) -> None:
        check_room(self.folder, len(text))
        write_atomically(path, lambda unfinished: _write_text(unfinished, text))


@contextmanager
def open_results(folder: Path, scans: Path, predicted_by: PredictedBy) -> Iterator[Results]:
    """The folder for this model's results, made on first use; what killed runs left is removed.

    Raises:
        SettingsError: it lies among the scans, holds something else, or another model's results.
        StoreError: another run writes to it, or it cannot be made.
    """
    _check_apart(folder, scans)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"{folder} cannot be made ({error.strerror}): choose another --out"
        ) from None
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_file(folder / LOCK, wait=False))
        except BlockingIOError:
            raise StoreError(f"another run writes to {folder}: wait for it") from None
        except OSError as error:
            raise StoreError(
                f"{folder} cannot be written ({error.strerror}): choose another --out"
            ) from None
        results = Results(folder, predicted_by)
        _check_owner(results)
        for path in folder.glob(f"{UNFINISHED}*"):
            path.unlink()
        yield results


def _check_apart(folder: Path, scans: Path) -> None:
    among = scans if scans.is_dir() else scans.parent
    is_inside = folder.resolve().is_relative_to(among.resolve())
    if is_inside and (scans.is_dir() or folder.resolve() == among.resolve()):
        raise SettingsError(
            f"{folder} lies among the scans, where nothing is written: choose another --out"
        )


def _check_owner(results: Results) -> None:
    path = results.folder / MODEL
    try:
        owner = PredictedBy.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        found = sorted(one.name for one in results.folder.iterdir() if one.name != LOCK)
        if any(not name.startswith(UNFINISHED) for name in found):
            raise SettingsError(
                f"{results.folder} holds other files ({', '.join(found[:3])}): choose a new --out"
            ) from None
        text = results.predicted_by.model_dump_json(indent=2)
        write_atomically(path, lambda unfinished: _write_text(unfinished, text))
        return
    except (OSError, ValidationError):
        raise SettingsError(f"{path} cannot be read: choose a new --out") from None
    if owner != results.predicted_by:
        raise SettingsError(
            f"{results.folder} holds results of another model, which stay:\n  {_in_words(owner)}\n"
            f"now asked for:\n  {_in_words(results.predicted_by)}\nchoose a new --out"
        )


def _in_words(by: PredictedBy) -> str:
    task = f", task {by.task}" if by.task is not None else ""
    return f"{by.model} of {by.federation}, round {by.round}, {by.models_sha256[:16]}{task}"


def _read(path: Path) -> Prediction | None:
    try:
        return Prediction.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
