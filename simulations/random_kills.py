"""Ends a process of a deployment at random, as a crash or a full memory would."""

import os
import random
import signal
from contextlib import suppress

from simulations.loopback import Loopback
from simulations.process_tree import processes_below


def kill_one(deployment: Loopback, chance: random.Random) -> str:
    """Kills one process, any with the same chance; returns what it was.

    A supervisor that was hit is started again, as systemd does.
    """
    pids = [process.pid for process in deployment.processes.values()]
    below = [one for pid in pids for one in processes_below(pid)]
    victim = chance.choice(sorted(below, key=lambda one: one.pid))
    with suppress(ProcessLookupError):  # it has ended by itself just now
        os.kill(victim.pid, signal.SIGKILL)
    for name, process in tuple(deployment.processes.items()):
        if victim.pid == process.pid:
            process.wait()
            deployment.launch(name)
    return victim.name
