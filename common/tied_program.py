"""Runs a program, and ends whoever started it when that ends: `python -I FILE PROGRAM ARGUMENTS`.

Flower's SuperLink and SuperNode start a SuperExec and never notice that it was killed: they stay
online and answer nothing any more. A supervisor minds only them, so they are made to end with it.
"""

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

THIS_FILE = Path(__file__).resolve()
EXECUTABLE = 0o755


def tied_script(program: Path) -> str:
    """A shell script that runs a program so."""
    command = (sys.executable, "-I", str(THIS_FILE), str(program))
    return f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'


def run_tied(command: Sequence[str]) -> int:
    """Runs the command; its exit status. Told to end, it passes that on and spares its parent."""
    parent, told = os.getppid(), []
    program = subprocess.Popen(command)

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        program.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    status = program.wait()
    # Another parent: the one that it was tied to has ended already.
    if not told and os.getppid() == parent:
        os.kill(parent, signal.SIGTERM)
    return status


if __name__ == "__main__":
    sys.exit(run_tied(sys.argv[1:]))
