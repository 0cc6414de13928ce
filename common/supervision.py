"""Keeps a machine's long-lived programs running, and ends them all when it is told to end."""

import os
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from common.errors import ServiceError
from common.file_lock import hold_file
from common.log_reading import last_lines
from common.processes import (
    Process,
    boot_id,
    end_processes,
    has_variable,
    list_processes,
    read_process,
)
from common.settings_file import Settings
from common.whole_file import write_whole

FIRST_PAUSE_S, LONGEST_PAUSE_S, SETTLED_AFTER_S = 1.0, 60.0, 60.0
READY_WITHIN_S, END_PATIENCE_S = 60.0, 20.0
LONGEST_LOG_BYTES, NUM_LAST_LINES = 10_000_000, 12
_LOOK_EVERY_S = 0.2
# Flower starts some programs in sessions of their own; this variable is what they all inherit.
_MARK = "ONESLICE_SUPERVISED"


def always_ready() -> bool:
    """For a service that needs no time before others may use it."""
    return True


def nothing() -> None:
    """For a supervisor with nothing to do but supervise."""


@dataclass(frozen=True)
class Service:
    """A program that is to run for as long as its supervisor does.

    Attributes:
        name: What `status` and `logs` call it.
        command: Program and arguments.
        log: Where its output is appended; beyond 10 MB what it holds moves to the name with `.1`.
        env: Its whole environment.
        ready: Quick; the next service starts once this is true, or after 60 s.
    """

    name: str
    command: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    ready: Callable[[], bool] = always_ready


class ServiceState(Settings):
    """A service as its supervisor sees it.

    Attributes:
        name: The service.
        mark: A random word in the environment of everything that the service starts.
        state: `waiting` for its turn or for the pause after its end, `starting`, or `running`.
        pid: Its newest process, and the session of what that started; None before the first.
        started_ticks: Clock ticks from the machine's start to the process's.
        restarts: How often it ended, and was or will be started again.
        since: When `state` began, ISO 8601, UTC.
        last_exit: How it ended the last time; empty if it never did.
        last_lines: The end of its log when it ended the last time.
    """

    name: str
    mark: str
    state: Literal["waiting", "starting", "running"] = "waiting"
    pid: int | None = None
    started_ticks: int | None = None
    restarts: int = 0
    since: str = ""
    last_exit: str = ""
    last_lines: tuple[str, ...] = ()

    def find_processes(self) -> list[Process]:
        """Everything that runs now and that this service is or has started."""
        running = list_processes()
        leader = next((process for process in running if process.pid == self.pid), None)
        # No process id is used again while the session of that name lasts.
        is_session_ours = leader is None or leader.started_ticks == self.started_ticks
        return [
            process
            for process in running
            if (process.session == self.pid and is_session_ours)
            or has_variable(process, _MARK, self.mark)
        ]


class Services(Settings):
    """What a supervisor wrote down last.

    Attributes:
        supervisor_pid: Its process.
        supervisor_ticks: Clock ticks from the machine's start to the supervisor's.
        boot: Names the run of the machine in which that was.
        problem: Why its regular task, such as adding hospitals, failed the last time; else empty.
        services: In the order in which they start.
    """

    supervisor_pid: int
    supervisor_ticks: int
    boot: str
    problem: str = ""
    services: tuple[ServiceState, ...] = ()

    def is_supervised(self) -> bool:
        """Whether the supervisor that wrote this is still there."""
        found = read_process(self.supervisor_pid)
        is_same = found is not None and found.started_ticks == self.supervisor_ticks
        return is_same and self.boot == boot_id()

    def find_processes(self) -> list[Process]:
        """Everything that runs now and that the supervisor started."""
        if self.boot != boot_id():
            return []
        return [process for one in self.services for process in one.find_processes()]


def read_services(state_file: Path) -> Services | None:
    """What the supervisor of `state_file` wrote down last; None if there never was one.

    Raises:
        ServiceError: the file is not what a supervisor writes.
    """
    try:
        return Services.model_validate_json(state_file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ServiceError(
            f"expected what a supervisor writes in {state_file}, found something else "
            f"({error.error_count()} problems): end what it started by hand, then remove the file"
        ) from None


def stop_services(state_file: Path, deadline_s: float = 60.0) -> bool:
    """Ends a supervisor and everything that it started; True if nothing of it is left."""
    services = read_services(state_file)
    if services is None:
        return True
    if services.is_supervised():
        os.kill(services.supervisor_pid, signal.SIGTERM)
        deadline = time.monotonic() + deadline_s
        while services.is_supervised() and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        if services.is_supervised():
            return False
        services = read_services(state_file) or services
    return not end_processes(services.find_processes, END_PATIENCE_S)


def supervise(
    services: Sequence[Service],
    state_file: Path,
    tick: Callable[[], None] = nothing,
    tick_s: float = 3.0,
) -> None:
    """Runs the services until SIGTERM or SIGINT; one that ends is started again.

    The pause before that doubles from 1 s to 60 s; who lived for a minute begins at 1 s again.
    Services start in order, `tick` once the last one had its turn, and then every `tick_s`
    seconds in a thread of its own, so that a slow one holds no restart up.
    What a killed predecessor left running is ended first.

    Raises:
        ServiceError: another supervisor works with this `state_file`.
    """
    state_file.parent.mkdir(parents=True, exist_ok=True)
    with _only_supervisor(state_file), _told_to_stop() as stop:
        if (left := read_services(state_file)) is not None:
            end_processes(left.find_processes, END_PATIENCE_S)
        supervisor = _Supervisor([_Runner.of(service) for service in services], state_file)
        try:
            supervisor.run(stop, tick, tick_s)
        finally:
            supervisor.end_all()


def next_pause_s(pause_s: float, lived_s: float) -> float:
    """How long a service waits that paused for `pause_s` the last time and lived for `lived_s`."""
    if lived_s >= SETTLED_AFTER_S:
        return FIRST_PAUSE_S
    return max(FIRST_PAUSE_S, min(2 * pause_s, LONGEST_PAUSE_S))


@dataclass
class _Runner:
    """One service on its way through waiting, starting and running."""

    service: Service
    state: ServiceState
    process: subprocess.Popen[bytes] | None = None
    pause_s: float = 0.0
    start_at: float = 0.0
    started_at: float = 0.0
    had_its_turn: bool = False  # the next service need not wait for this one any more

    @classmethod
    def of(cls, service: Service) -> "_Runner":
        return cls(service, ServiceState(name=service.name, mark=secrets.token_hex(8)))

    def advance(self) -> None:
        """Starts the service if it is due; notes that it is ready or has ended."""
        if self.process is None:
            if time.monotonic() >= self.start_at:
                self._start()
        elif (status := self.process.poll()) is not None:
            self._note_end(_in_words(status))
        elif self.state.state == "starting" and self.service.ready():
            self._become("running")
        waited_enough = self.started_at > 0 and time.monotonic() > self.started_at + READY_WITHIN_S
        self.had_its_turn |= waited_enough or self.state.state == "running"

    def _start(self) -> None:
        # A program that was killed leaves what it had started behind, and that holds its port.
        end_processes(self.state.find_processes, END_PATIENCE_S / 4)
        self.started_at = self.started_at or time.monotonic()
        self.start_at = time.monotonic()
        try:
            self.service.log.parent.mkdir(parents=True, exist_ok=True)
            with self.service.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.service.command,
                    env={**self.service.env, _MARK: self.state.mark},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
        except OSError as error:
            self._note_end(f"could not be started: {error}")
            return
        found = read_process(self.process.pid)
        ticks = None if found is None else found.started_ticks
        self._become("starting", pid=self.process.pid, started_ticks=ticks)

    def _note_end(self, how: str) -> None:
        self.process = None
        now = time.monotonic()
        self.pause_s = next_pause_s(self.pause_s, now - self.start_at)
        self.start_at = now + self.pause_s
        self._become(
            "waiting",
            last_exit=how,
            last_lines=tuple(line[:400] for line in last_lines(self.service.log, NUM_LAST_LINES)),
            restarts=self.state.restarts + 1,
        )

    def _become(self, state: str, **changes: object) -> None:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        values = {**self.state.model_dump(), **changes, "state": state, "since": since}
        self.state = ServiceState.model_validate(values)


@dataclass
class _Supervisor:
    runners: list[_Runner]
    state_file: Path
    problem: str = ""
    written: Services | None = None

    def run(self, stop: threading.Event, tick: Callable[[], None], tick_s: float) -> None:
        self._write()
        ticking: threading.Thread | None = None
        while not stop.wait(_LOOK_EVERY_S):
            for runner in self.runners:
                runner.advance()
                _cut_long_log(runner.service.log)
                if not runner.had_its_turn:
                    break
            else:
                if ticking is None:
                    ticking = threading.Thread(
                        target=self._tick_until, args=(stop, tick, tick_s), daemon=True
                    )
                    ticking.start()
            self._write()
        if ticking is not None:
            ticking.join(END_PATIENCE_S)

    def _tick_until(self, stop: threading.Event, tick: Callable[[], None], tick_s: float) -> None:
        while not stop.is_set():
            try:
                tick()
                self.problem = ""
            except Exception as error:  # noqa: BLE001 the services matter more than any one task
                self.problem = f"{type(error).__name__}: {error}"
                traceback.print_exc()
            stop.wait(tick_s)

    def end_all(self) -> None:
        end_processes(self._now().find_processes, END_PATIENCE_S)
        for runner in self.runners:
            if runner.process is not None:
                runner.process.poll()
                runner.state = runner.state.model_copy(update={"state": "waiting"})
        self._write()

    def _now(self) -> Services:
        me = read_process(os.getpid())
        if me is None:
            raise ServiceError("expected /proc to tell of this process: supervision needs Linux")
        return Services(
            supervisor_pid=me.pid,
            supervisor_ticks=me.started_ticks,
            boot=boot_id(),
            problem=self.problem,
            services=tuple(runner.state for runner in self.runners),
        )

    def _write(self) -> None:
        now = self._now()
        if now == self.written:
            return
        try:
            write_whole(self.state_file, now.model_dump_json(indent=2))
            self.written = now
        except OSError as error:  # a full disk must not end the services
            print(f"warning: {self.state_file} cannot be written: {error}", file=sys.stderr)


@contextmanager
def _only_supervisor(state_file: Path) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(hold_file(state_file.with_suffix(".lock"), wait=False))
        except BlockingIOError:
            raise ServiceError(
                f"expected to be the only supervisor of {state_file.parent}, another one runs: "
                "use it as it is, or end it first (the command `down`)"
            ) from None
        yield


@contextmanager
def _told_to_stop() -> Iterator[threading.Event]:
    """An event that SIGTERM or SIGINT sets."""
    stop = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: stop.set())
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_words(status: int) -> str:
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"


def _cut_long_log(log: Path) -> None:
    """The program holds its log open, so what the file holds moves, not the file."""
    try:
        if log.stat().st_size > LONGEST_LOG_BYTES:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)
    except OSError as error:
        if not isinstance(error, FileNotFoundError):
            print(f"warning: {log} cannot be shortened: {error}", file=sys.stderr)
