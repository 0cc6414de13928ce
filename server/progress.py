"""Progress: how far a federation is, as its server tells others on this machine while it works."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from common.processes import read_process
from common.settings_file import Settings
from common.whole_file import write_whole

log = logging.getLogger(__name__)
HEARTBEAT_S = 2.0
LOST_AFTER_S = 30.0
Phase = Literal["waiting", "asking", "averaging", "finished", "failed"]


@dataclass(frozen=True)
class Step:
    """What the server does now.

    Attributes:
        phase: Waiting for hospitals to join or come back, asking them, averaging, or at an end.
        round: The round it works on; 0 before the first.
        waiting_for: The hospitals whose answer is still to come.
        sentence: What a person should know about it.
    """

    phase: Phase
    round: int
    waiting_for: tuple[str, ...] = ()
    sentence: str = ""


OnProgress = Callable[[Step], None]


def unheard(_: Step) -> None:
    """Nobody listens."""


class Progress(Settings):
    """The newest step, who made it, and when it was last confirmed.

    Attributes:
        federation: The plan's name with the beginning of its hash.
        run_id: Flower's number of this start.
        pid: The server's process.
        started_ticks: Clock ticks from the machine's start to that process's.
        phase: As in `Step`, like the four fields below but for `rounds`, the plan's number.
        time: When the process was last known to live, ISO 8601, UTC.
    """

    federation: str
    run_id: str
    pid: int
    started_ticks: int
    phase: Phase
    round: int = Field(ge=0)
    rounds: int = Field(ge=1)
    waiting_for: tuple[str, ...] = ()
    sentence: str = ""
    time: str

    @property
    def silent_s(self) -> float:
        """Seconds since the process was last known to live."""
        return (datetime.now(UTC) - datetime.fromisoformat(self.time)).total_seconds()

    def is_alive(self) -> bool:
        """Whether the process that wrote this is still there."""
        found = read_process(self.pid)
        return found is not None and found.started_ticks == self.started_ticks


def read_progress(path: Path) -> Progress | None:
    """What a server told last; None if none ever did or the file is damaged."""
    try:
        return Progress.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        log.warning("%s is damaged and says nothing", path)
        return None


@contextmanager
def telling_progress(path: Path, federation: str, run_id: str, rounds: int) -> Iterator[OnProgress]:
    """Keeps `path` up to date with the steps that its value is called with.

    A new phase or round is written at once, everything else with the next heartbeat.
    An exception becomes the last step and goes on.
    """
    writer = _Writer(path, federation, run_id, rounds)
    ended = threading.Event()
    heart = threading.Thread(target=writer.beat_until, args=(ended,), daemon=True)
    heart.start()
    try:
        yield writer.tell
    except (SystemExit, KeyboardInterrupt):
        writer.tell(Step("failed", writer.step.round, (), "the server was told to end"))
        raise
    except Exception as error:
        writer.tell(Step("failed", writer.step.round, (), f"{type(error).__name__}: {error}"))
        raise
    finally:
        ended.set()
        heart.join()
        writer.write()


class _Writer:
    def __init__(self, path: Path, federation: str, run_id: str, rounds: int) -> None:
        self.step = Step("waiting", 0)
        self._path = path
        self._federation, self._run_id, self._rounds = federation, run_id, rounds
        me = read_process(os.getpid())
        self._started_ticks = 0 if me is None else me.started_ticks
        self._writing = threading.Lock()

    def tell(self, step: Step) -> None:
        before, self.step = self.step, step
        if (before.phase, before.round) != (step.phase, step.round):
            self.write()

    def beat_until(self, ended: threading.Event) -> None:
        self.write()
        while not ended.wait(HEARTBEAT_S):
            self.write()

    def write(self) -> None:
        with self._writing:
            step = self.step
            progress = Progress(
                federation=self._federation,
                run_id=self._run_id,
                pid=os.getpid(),
                started_ticks=self._started_ticks,
                phase=step.phase,
                round=step.round,
                rounds=self._rounds,
                waiting_for=step.waiting_for,
                sentence=step.sentence,
                time=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            try:
                write_whole(self._path, progress.model_dump_json(indent=2))
            except OSError as error:  # a full disk: the rounds say so themselves
                log.warning("%s cannot be written: %s", self._path, error)
