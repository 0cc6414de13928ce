"""A disk that really fills up."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted_disk(path: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of its own; the test is skipped where none may be mounted."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "oneslice-test", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, but: int = 0) -> Path:
    """Takes the disk's last byte, but for so many; the file that holds them."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    assert shutil.disk_usage(disk).free == 0
    os.truncate(filler, max(0, filler.stat().st_size - but))
    return filler
