"""Whether a federation's disk has room for its next round."""

import shutil
from pathlib import Path

from server.run_folder import RunFolder

# For the progress, the log and the tracking beside the round itself.
LEAST_BYTES = 1_000_000


def missing_room(folder: RunFolder) -> str:
    """What a person should know about a disk that is too full for the next round; else empty.

    A round is taken to need as much as the newest that was saved.
    """
    rounds = sorted(folder.checkpoints.glob("round-?????"))
    needed = LEAST_BYTES + (_bytes_in(rounds[-1]) if rounds else 0)
    free = shutil.disk_usage(folder.path).free
    if free >= needed:
        return ""
    return (
        f"the disk under {folder.path} is full ({free / 1e6:.1f} MB free, the next round needs "
        f"{needed / 1e6:.1f} MB): free some space; the rounds that were saved are whole"
    )


def _bytes_in(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())
