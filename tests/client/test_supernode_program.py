"""The SuperNode's process ends with its main thread, whatever other threads do."""

import subprocess
import sys

BROKEN = """
import threading, time
import client.supernode_program as program

def breaks_off():
    threading.Thread(target=time.sleep, args=(600,)).start()
    raise ConnectionError("EOF occurred in violation of protocol")

program.flower_supernode = breaks_off
program.main()
"""


def test_an_error_ends_the_process_though_another_thread_lives() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BROKEN], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "EOF occurred in violation of protocol" in done.stderr
