"""The SuperNode's process ends with its main thread, whatever other threads do."""

import subprocess
import sys

import pytest

BROKEN = """
import threading, time
import client.supernode_program as program

def ends():
    threading.Thread(target=time.sleep, args=(600,)).start()
    {how}

program.flower_supernode = ends
program.main()
"""


def run(how: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BROKEN.format(how=how)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("how", ["raise ConnectionError('EOF in the handshake')", "return"])
def test_the_process_ends_though_another_thread_lives(how: str) -> None:
    done = run(how)
    assert done.returncode == 1
    assert ("EOF in the handshake" in done.stderr) is how.startswith("raise")
