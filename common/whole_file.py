"""Small files that are there whole or not at all, and keys that nobody else can read."""

import errno
import glob
import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644
UNFINISHED = ".unfinished"
# Nobody writes a small file for that long: whoever did was killed.
ABANDONED_AFTER_S = 3600.0


def write_whole(path: Path, content: bytes | str, mode: int = PUBLIC) -> None:
    """Writes `path` at once, flushed to the disk; `mode` is in force before the content is in."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    handle, name = tempfile.mkstemp(UNFINISHED, f".{path.name}-", path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    _flush_names(path.parent)


def _remove_abandoned(path: Path) -> None:
    """Removes what killed writers of the same file left."""
    for left in path.parent.glob(f".{glob.escape(path.name)}-*{UNFINISHED}"):
        # Another writer may be quicker to remove it, or may be another user.
        with suppress(FileNotFoundError, PermissionError):
            if time.time() - left.stat().st_mtime > ABANDONED_AFTER_S:
                left.unlink()


def _flush_names(folder: Path) -> None:
    """Has the disk hold the file under its new name, not only its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot
            raise
    finally:
        os.close(handle)
