"""Laws of the command itself, before a role takes over."""

import os
import subprocess
import sys

import pytest


def _waiting_turns(**environment: str) -> str:
    """What torch's threads were told, when they load after the command began."""
    ours = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    command = "import sys, oneslice; sys.argv[1:] = ['--version']; oneslice.main(); import torch"
    told = subprocess.run(
        [sys.executable, "-c", command],
        env={**kept, "OMP_DISPLAY_ENV": "VERBOSE", **environment},
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    return next(line.strip() for line in told.splitlines() if "GOMP_SPINCOUNT" in line)


@pytest.mark.skipif(sys.platform != "linux", reason="torch's threads are GNU's on Linux alone")
@pytest.mark.parametrize(
    ("environment", "turns"),
    [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")],
)
def test_waiting_threads_leave_the_cores_to_others(environment, turns):
    assert _waiting_turns(**environment) == f"GOMP_SPINCOUNT = '{turns}'"
