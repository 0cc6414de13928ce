"""Prints the end of a service's log, and what comes after."""

import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from common.errors import SettingsError

LINES = 40
_TAIL_BYTES, _LOOK_EVERY_S = 64_000, 0.5


def find_logs(folder: Path) -> dict[str, Path]:
    """The logs in a folder, by the service's name."""
    return {path.stem: path for path in sorted(folder.glob("*.log"))}


def print_logs(logs: Mapping[str, Path], name: str | None, *, follow: bool) -> None:
    """Prints the last lines of the named log, or of all; with `follow`, goes on until Ctrl-C.

    Raises:
        SettingsError: there is no such log.
    """
    if name is not None and name not in logs:
        known = ", ".join(logs) or "none yet"
        raise SettingsError(f"expected the name of a log, got {name!r}; there are: {known}")
    chosen = dict(logs) if name is None else {name: logs[name]}
    ends = {}
    for title, path in chosen.items():
        label = f"{title}: " if len(chosen) > 1 else ""
        text, ends[title] = _read_end(path)
        for line in text.splitlines()[-LINES:]:
            print(f"{label}{line}", flush=True)
    with suppress(KeyboardInterrupt):
        while follow:
            time.sleep(_LOOK_EVERY_S)
            for title, path in chosen.items():
                label = f"{title}: " if len(chosen) > 1 else ""
                ends[title] = _print_from(path, ends[title], label)


def last_lines(path: Path, most: int) -> list[str]:
    """The last lines of a file, at most `most`; none if it cannot be read."""
    return _read_end(path)[0].splitlines()[-most:]


def _read_end(path: Path) -> tuple[str, int]:
    """The end of a file, and how many bytes the file had with it."""
    try:
        with path.open("rb") as file:
            start = max(0, path.stat().st_size - _TAIL_BYTES)
            file.seek(start)
            data = file.read()
    except OSError:
        return "", 0
    return data.decode("utf-8", errors="replace"), start + len(data)


def _print_from(path: Path, start: int, label: str) -> int:
    """Prints whole lines from byte `start` on; where the next look begins."""
    try:
        if path.stat().st_size < start:
            start = 0  # it was cut: what it held has moved to the name with `.1`
        with path.open("rb") as file:
            file.seek(start)
            data = file.read()
    except OSError:
        return start
    whole = data[: data.rfind(b"\n") + 1]
    for line in whole.decode("utf-8", errors="replace").splitlines():
        print(f"{label}{line}", flush=True)
    return start + len(whole)
