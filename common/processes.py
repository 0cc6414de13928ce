"""The processes of this machine, told apart even when a process id is used again. Linux only."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_POLL_S, _KILL_WITHIN_S = 0.1, 10.0


@dataclass(frozen=True)
class Process:
    """A process that ran when it was looked at.

    Attributes:
        pid: Process id; used again some time after the process has ended.
        started_ticks: Clock ticks since the machine's start; larger means younger.
        session: The pid of the process that began the session.
    """

    pid: int
    started_ticks: int
    session: int


def boot_id() -> str:
    """Names the present run of the machine: pids and ticks begin anew after the next start."""
    return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def read_process(pid: int) -> Process | None:
    """The process with this id; None if there is none or it has ended and waits to be reaped."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name stands in brackets and may hold brackets and blanks itself.
    fields = text.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return Process(pid, started_ticks=int(fields[19]), session=int(fields[3]))


def list_processes() -> list[Process]:
    """All processes that run now."""
    pids = [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdecimal()]
    return [found for pid in pids if (found := read_process(pid)) is not None]


def has_variable(process: Process, name: str, value: str) -> bool:
    """Whether the process was started with this environment variable; False if it hides that."""
    try:
        environment = (_PROC / str(process.pid) / "environ").read_bytes()
    except OSError:
        return False
    return f"{name}={value}".encode() in environment.split(b"\0")


def end_processes(find: Callable[[], list[Process]], patience_s: float) -> list[Process]:
    """Asks the processes that `find` returns to end (SIGTERM); after `patience_s` they must.

    Returns:
        Those that could not be ended: another user's, or stuck in the kernel.
    """
    _send(signal.SIGTERM, find())
    _wait_until_gone(find, patience_s)
    killing_until = time.monotonic() + _KILL_WITHIN_S
    # A process that is dying may have started another one since.
    while (left := find()) and time.monotonic() < killing_until:
        _send(signal.SIGKILL, left)
        time.sleep(_POLL_S)
    return left


def _wait_until_gone(find: Callable[[], list[Process]], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while find() and time.monotonic() < deadline:
        time.sleep(_POLL_S)


def _send(number: signal.Signals, processes: list[Process]) -> None:
    for process in processes:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process.pid, number)
