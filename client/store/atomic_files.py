"""Files that are there whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from common.errors import DiskFullError

UNFINISHED = ".unfinished-"  # hidden: nobody's own files are called so
# SQLite makes its shared memory (32 KiB) and its log anew when the first connection opens.
CATALOG_ROOM_BYTES = 2 * 2**20
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Has `write` fill a file beside `path`, flushes it to the disk, then renames it to `path`.

    Raises:
        DiskFullError: the disk is full; nothing is left behind.
    """
    unfinished = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # The suffix is kept because image libraries choose the format by it.
        handle, name = tempfile.mkstemp(
            prefix=UNFINISHED, suffix="".join(path.suffixes[-2:]), dir=path.parent
        )
        os.close(handle)
        unfinished = Path(name)
        write(unfinished)
        _flush(unfinished)
        unfinished.replace(path)
        # The new name is on the disk only when its folder is; a catalog row may point to it next.
        _flush(path.parent)
    except OSError as error:
        if error.errno in DISK_FULL:
            raise disk_full(path.parent) from error
        raise
    finally:
        if unfinished is not None:
            unfinished.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_room(folder: Path, num_bytes: int) -> None:
    """Refuses a file that would take the disk's last bytes: the catalog needs them to open at all.

    Raises:
        DiskFullError: less than `num_bytes` and the catalog's share are free.
    """
    if shutil.disk_usage(folder).free < num_bytes + CATALOG_ROOM_BYTES:
        raise disk_full(folder)


def disk_full(folder: Path) -> DiskFullError:
    """The error for a full disk: where, how much is left, what to do."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free_mb = shutil.disk_usage(folder).free / 1e6
    return DiskFullError(
        f"the disk under {folder} is full ({free_mb:.0f} MB free); what was stored before is "
        "whole: free some space and run the same command again"
    )
