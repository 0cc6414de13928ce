"""Small files that are there whole or not at all, and keys that nobody else can read."""

import os
import tempfile
from pathlib import Path

PRIVATE, PUBLIC = 0o600, 0o644


def write_whole(path: Path, content: bytes | str, mode: int = PUBLIC) -> None:
    """Writes `path` at once, flushed to the disk; `mode` is in force before the content is in."""
    data = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
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
