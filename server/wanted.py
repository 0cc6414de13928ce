"""What the coordinator wants of each federation, and how often it had to be started for that."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from common.errors import CheckpointError
from common.file_lock import hold_file
from common.settings_file import Settings
from common.whole_file import write_whole
from server.run_folder import RunFolder

MOST_STARTS, LONGEST_PAUSE_S = 5, 60.0


class Wanted(Settings):
    """wanted.json: written by `start`, `stop` and `resume`, and by the supervisor at each start.

    Attributes:
        wanted: `failed` is for a federation that was given up.
        run_id: Flower's number of the newest start; empty before the first.
        starts: How often it was started since a round was saved last.
        round: The newest saved round at the newest start.
        submitted: When the newest start was, ISO 8601, UTC; empty before the first.
        reason: Why it was given up.
    """

    wanted: Literal["running", "stopped", "failed"] = "running"
    run_id: str = ""
    starts: int = Field(default=0, ge=0)
    round: int = Field(default=0, ge=0)
    submitted: str = ""
    reason: str = ""

    @property
    def submitted_s(self) -> float:
        """Seconds since the newest start; infinite if none is known."""
        if not self.submitted:
            return float("inf")
        passed = datetime.now(UTC) - datetime.fromisoformat(self.submitted)
        # A start of the future was written by a clock that was ahead: nobody waits until then.
        return passed.total_seconds() if passed.total_seconds() >= 0 else float("inf")

    @property
    def pause_s(self) -> float:
        """How long the next start waits after the newest one: 5 s and twice as long each time."""
        return min(5.0 * 2.0**self.starts, LONGEST_PAUSE_S)


def read_wanted(folder: RunFolder) -> Wanted | None:
    """What is wanted of a run; None if nothing was ever said.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = _file_of(folder)
    try:
        return Wanted.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise CheckpointError(
            f"{path} is damaged: remove it, and `oneslice coordinator resume {folder.path.name}`"
        ) from None


def write_wanted(folder: RunFolder, wanted: Wanted) -> None:
    """Says what is wanted; to be called while `alone` holds the run."""
    write_whole(_file_of(folder), wanted.model_dump_json(indent=2))


@contextmanager
def alone(folder: RunFolder) -> Iterator[None]:
    """A command and the supervisor must not decide about the same run at once."""
    folder.path.mkdir(parents=True, exist_ok=True)
    with hold_file(folder.path / ".wanted.lock", wait=True):
        yield


def newest_round(folder: RunFolder) -> int:
    """The number of the newest saved round, 0 before the first; opens no checkpoint."""
    rounds = sorted(folder.checkpoints.glob("round-?????"))
    return int(rounds[-1].name.removeprefix("round-")) if rounds else 0


def _file_of(folder: RunFolder) -> Path:
    return folder.path / "wanted.json"
