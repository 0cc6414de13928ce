"""A file that one process at a time holds; the kernel lets go of it when that process ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def hold_file(path: Path, *, wait: bool) -> Iterator[None]:
    """Holds `path`, which is made if it is not there.

    It is its owner's alone: another user who could open it could hold it for ever.

    Raises:
        BlockingIOError: another one holds it, and `wait` is false.
    """
    handle = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)
