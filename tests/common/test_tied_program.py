"""Who started a program that is killed ends as well; who ends it on purpose lives on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.tied_program import tied_script

PARENT = """
import signal, subprocess, sys
program = subprocess.Popen(sys.argv[1:])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
signal.signal(signal.SIGUSR1, lambda *_: program.terminate())
print("started", flush=True)
program.wait()
input()
"""


@pytest.fixture
def sleeper(tmp_path: Path) -> Path:
    """A program that tells its number and sleeps."""
    path = tmp_path / "sleeper"
    path.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid.new\nmv {tmp_path}/pid.new "
                    f"{tmp_path}/pid\nexec sleep 60\n")  # fmt: skip
    path.chmod(0o755)
    return path


def start(sleeper: Path) -> tuple[subprocess.Popen[bytes], int]:
    script = sleeper.with_suffix(".sh")
    script.write_text(tied_script(sleeper))
    script.chmod(0o755)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    pid_file = sleeper.parent / "pid"
    until = time.monotonic() + 20
    while not pid_file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)
    return parent, int(pid_file.read_text())


def test_a_program_that_is_killed_takes_its_parent_along(sleeper: Path) -> None:
    parent, pid = start(sleeper)
    with parent:
        os.kill(pid, signal.SIGKILL)
        assert parent.wait(20) == 7


def test_a_program_that_is_told_to_end_spares_its_parent(sleeper: Path) -> None:
    parent, pid = start(sleeper)
    with parent:
        parent.send_signal(signal.SIGUSR1)
        parent.communicate(b"\n", timeout=20)
        assert parent.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
