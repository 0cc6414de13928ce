"""The real programs of a consortium, started by a test and ended with it."""

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from common.quiet import QUIET
from common.supervision import Service
from server.consortium import Consortium, ConsortiumSettings, make_consortium
from server.members_sync import is_superlink_up
from server.up import services_of
from simulations.loopback import ONESLICE, free_port

# On one core sums are added up in one order, so that weights can be compared bit by bit.
ONE_THREAD = {**os.environ, **QUIET, "OMP_NUM_THREADS": "1"}
Command = tuple[str, ...]


def as_it_is(command: Command) -> Command:
    return command


@contextmanager
def running(command: Command, log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(holds: Callable[[], object], log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.1)


def fails(*arguments: str) -> str:
    """What a command that fails says to the person."""
    done = subprocess.run([ONESLICE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def make(folder: Path, now: datetime, proxy: str = "nginx") -> Consortium:
    """A consortium that was made at a moment."""
    values = {"port": free_port(), "superlink_port": free_port(), "mlflow_port": free_port()}
    settings = ConsortiumSettings.model_validate(
        {"name": "trial", "addresses": ("127.0.0.1",), "proxy": proxy, **values}
    )
    return make_consortium(folder / "c", settings, now)


def service(consortium: Consortium, name: str) -> Service:
    services = services_of(consortium, consortium.read_settings())
    return next(one for one in services if one.name == name)


@contextmanager
def superlink(
    consortium: Consortium, log: Path, changed: Callable[[Command], Command] = as_it_is
) -> Iterator[None]:
    one = service(consortium, "superlink")
    with running(changed(one.command), log, dict(one.env)):
        wait_for(lambda: is_superlink_up(consortium), log)
        yield
