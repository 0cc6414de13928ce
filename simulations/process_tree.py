"""Processes below a process, as Linux lists them: what they are, and what memory they hold."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class RunningProcess:
    """One process. `name` is the program that it runs: flower-superlink, nginx, python -m ..."""

    pid: int
    parent: int
    name: str
    resident_bytes: int


def processes_below(pid: int) -> list[RunningProcess]:
    """The process and all that it or its children started, but those that end meanwhile."""
    found = [one for path in PROC.glob("[0-9]*") if (one := _read(int(path.name))) is not None]
    known = {pid}
    # Numbers wrap, so children may have smaller ones than their parents: until nothing is new.
    while new := {one.pid for one in found if one.parent in known} - known:
        known |= new
    return [one for one in found if one.pid in known]


def _read(pid: int) -> RunningProcess | None:
    try:
        status = (PROC / str(pid) / "stat").read_text()
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    # The name in brackets may hold anything; the fields after it are state, parent, ...
    fields = status.rpartition(")")[2].split()
    if fields[0] == "Z":
        return None
    return RunningProcess(pid, int(fields[1]), _name_of(words), int(fields[21]) * PAGE_BYTES)


def _name_of(words: list[str]) -> str:
    """What runs: the script or module that an interpreter was given, else the program."""
    program = Path(words[0]).name
    if not program.startswith("python"):
        return program
    arguments = [word for word in words[1:] if word and not word.startswith("-")]
    return Path(arguments[0]).name if arguments else program
