"""A file that one process at a time holds."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.file_lock import hold_file

HOLD = """
import sys, time
from pathlib import Path
from common.file_lock import hold_file
with hold_file(Path(sys.argv[1]), wait=False):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_holds_it_at_a_time_and_a_killed_one_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(BlockingIOError), hold_file(path, wait=False):
            pass
        other.kill()
        with hold_file(path, wait=True):
            pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
