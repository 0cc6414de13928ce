"""What this process holds in memory, and held at most, as Linux counts it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

KILOBYTES_PER_MEGABYTE = 1024


@contextmanager
def peak_memory() -> Iterator[list[float]]:
    """Afterwards holds by how many megabytes this process had grown at most.

    Linux keeps the peak itself and starts it anew on request; a thread that
    looked from time to time would miss what passes while it gets no turn.
    """
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, result = resident_mb(), list[float]()
    try:
        yield result
    finally:
        result.append(max(peak_mb() - before, 0.0))


def resident_mb() -> float:
    """What this process holds in memory."""
    return _status_mb("VmRSS")


def peak_mb() -> float:
    """The most that this process held since it began, or since its peak was started anew.

    `ru_maxrss` would begin with what the process that started it held.
    """
    return _status_mb("VmHWM")


def _status_mb(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{name}:"))
    return int(line.split()[1]) / KILOBYTES_PER_MEGABYTE
