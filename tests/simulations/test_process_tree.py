"""The list of processes is the system's own."""

import os
import subprocess
import sys

from simulations.process_tree import processes_below

SLEEPS = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()', 'marked'])"


def test_children_and_their_children_are_found_and_the_dead_are_not() -> None:
    with subprocess.Popen([sys.executable, "-c", SLEEPS], stdin=subprocess.PIPE) as process:
        while len(below := processes_below(process.pid)) < 2:
            assert process.poll() is None
        assert {one.pid for one in below} >= {process.pid}
        assert {one.parent for one in below} == {os.getpid(), process.pid}
        assert all(one.resident_bytes > 0 for one in below)
        process.communicate(b"\n")
    assert processes_below(process.pid) == []


def test_a_process_is_called_by_what_it_runs() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        while [one.name for one in processes_below(process.pid)] != ["sleep"]:
            assert process.poll() is None
        process.kill()
