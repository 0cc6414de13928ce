"""A real supervisor in a process of its own, with small programs to look after."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from common.errors import ServiceError
from common.processes import Process, read_process
from common.supervision import (
    Services,
    ServiceState,
    next_pause_s,
    read_services,
    stop_services,
    supervise,
)

SLEEP = "import time; print('here', flush=True); time.sleep(600)"
# A parent that starts a child in a session of its own, as Flower's SuperLink does.
FAMILY = (
    "import subprocess, sys, time;"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
    " start_new_session=True); time.sleep(600)"
)
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
FAIL = "import sys; print('no such disk', flush=True); sys.exit(3)"

SUPERVISOR = """
import json, os, sys
from pathlib import Path
from common import supervision
from common.supervision import Service, supervise

folder, programs = Path(sys.argv[1]), json.loads(sys.argv[2])
supervision.END_PATIENCE_S = 2.0
if "bad" in programs:
    supervision.READY_WITHIN_S = 2.0
services = [
    Service(
        name,
        (sys.executable, "-c", program),
        folder / f"{name}.log",
        dict(os.environ),
        (folder / f"{name}.ready").exists if name.startswith("slow") else supervision.always_ready,
    )
    for name, program in programs.items()
]

def tick():
    with (folder / "ticks").open("a") as file:
        file.write("tick\\n")
    if (folder / "fail").exists():
        raise RuntimeError("no such hospital")

supervise(services, folder / "services.json", tick, 0.1)
"""

Start = Callable[[dict[str, str]], subprocess.Popen[bytes]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(programs: dict[str, str]) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", SUPERVISOR, str(tmp_path), json.dumps(programs)]
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(60)
    assert stop_services(tmp_path / "services.json")


def wait_for(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not claim():
        assert time.monotonic() < deadline, "waited for a minute"
        time.sleep(0.05)


def services_in(folder: Path) -> dict[str, ServiceState]:
    found = read_services(folder / "services.json")
    return {} if found is None else {one.name: one for one in found.services}


def states_in(folder: Path) -> dict[str, str]:
    return {name: one.state for name, one in services_in(folder).items()}


def processes_in(folder: Path) -> list[Process]:
    found = read_services(folder / "services.json")
    assert found is not None
    return found.find_processes()


def test_a_killed_service_is_started_again(tmp_path: Path, start: Start) -> None:
    start({"one": SLEEP, "two": SLEEP})
    wait_for(lambda: states_in(tmp_path) == {"one": "running", "two": "running"})
    before = services_in(tmp_path)
    assert before["one"].pid is not None
    os.kill(before["one"].pid, signal.SIGKILL)
    wait_for(
        lambda: (
            services_in(tmp_path)["one"].restarts == 1 and states_in(tmp_path)["one"] != "waiting"
        )
    )
    wait_for(lambda: states_in(tmp_path)["one"] == "running")
    after = services_in(tmp_path)
    assert after["one"].pid != before["one"].pid
    assert after["one"].last_exit == "killed by SIGKILL"
    assert after["one"].last_lines == ("here",)
    assert after["two"] == before["two"]


def test_what_a_killed_service_had_started_is_ended_before_the_next_start(
    tmp_path: Path, start: Start
) -> None:
    start({"family": FAMILY})
    wait_for(lambda: len(processes_in(tmp_path)) == 2 if states_in(tmp_path) else False)
    before = {process.pid for process in processes_in(tmp_path)}
    parent = services_in(tmp_path)["family"].pid
    assert parent is not None
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: services_in(tmp_path)["family"].restarts == 1)
    wait_for(
        lambda: len(processes_in(tmp_path)) == 2 and states_in(tmp_path)["family"] == "running"
    )
    assert not before & {process.pid for process in processes_in(tmp_path)}


def test_a_service_that_ends_at_once_says_why_and_does_not_keep_others_from_starting(
    tmp_path: Path, start: Start
) -> None:
    start({"bad": FAIL, "good": SLEEP})
    wait_for(lambda: services_in(tmp_path).get("bad", None) is not None)
    wait_for(lambda: services_in(tmp_path)["bad"].restarts >= 2)
    wait_for(lambda: states_in(tmp_path)["good"] == "running")
    bad = services_in(tmp_path)["bad"]
    assert bad.last_exit == "exit status 3"
    assert bad.last_lines[-1] == "no such disk"


def test_a_program_that_is_not_there_is_named(tmp_path: Path, start: Start) -> None:
    process = subprocess.Popen(
        [
            sys.executable,
            "-c",
            SUPERVISOR.replace("sys.executable", "'/nowhere/superlink'"),
            str(tmp_path),
            json.dumps({"superlink": SLEEP}),
        ]
    )
    try:
        wait_for(lambda: "superlink" in services_in(tmp_path))
        wait_for(lambda: services_in(tmp_path)["superlink"].restarts > 0)
        assert "/nowhere/superlink" in services_in(tmp_path)["superlink"].last_exit
    finally:
        process.terminate()
        process.wait(60)


def test_the_next_service_waits_until_the_one_before_is_ready(tmp_path: Path, start: Start) -> None:
    start({"slow": SLEEP, "next": SLEEP})
    wait_for(lambda: states_in(tmp_path) == {"slow": "starting", "next": "waiting"})
    assert not (tmp_path / "ticks").exists()
    (tmp_path / "slow.ready").touch()
    wait_for(lambda: states_in(tmp_path) == {"slow": "running", "next": "running"})
    wait_for((tmp_path / "ticks").exists)


def test_a_failing_task_is_named_and_tried_again(tmp_path: Path, start: Start) -> None:
    def problem() -> str:
        found = read_services(tmp_path / "services.json")
        return "" if found is None else found.problem

    (tmp_path / "fail").touch()
    start({"one": SLEEP})
    wait_for(lambda: problem() == "RuntimeError: no such hospital")
    (tmp_path / "fail").unlink()
    wait_for(lambda: problem() == "")


def test_sigterm_ends_all_even_what_is_deaf_to_it(tmp_path: Path, start: Start) -> None:
    supervisor = start({"family": FAMILY, "deaf": DEAF})
    wait_for(lambda: states_in(tmp_path) == {"family": "running", "deaf": "running"})
    wait_for(lambda: len(processes_in(tmp_path)) == 3)
    supervisor.terminate()
    assert supervisor.wait(60) == 0
    assert processes_in(tmp_path) == []
    assert states_in(tmp_path) == {"family": "waiting", "deaf": "waiting"}


def test_what_a_killed_supervisor_left_is_ended_at_the_next_start(
    tmp_path: Path, start: Start
) -> None:
    first = start({"family": FAMILY})
    wait_for(lambda: states_in(tmp_path) == {"family": "running"})
    wait_for(lambda: len(processes_in(tmp_path)) == 2)
    orphans = processes_in(tmp_path)
    first.kill()
    first.wait(60)
    assert processes_in(tmp_path) == orphans
    start({"one": SLEEP})
    wait_for(lambda: states_in(tmp_path) == {"one": "running"})
    assert [read_process(process.pid) for process in orphans] == [None, None]


def test_stop_ends_a_supervisor_and_what_a_killed_one_left(tmp_path: Path, start: Start) -> None:
    state_file = tmp_path / "services.json"
    assert stop_services(state_file)
    first = start({"one": SLEEP})
    wait_for(lambda: states_in(tmp_path) == {"one": "running"})
    assert stop_services(state_file)
    assert first.wait(10) == 0
    second = start({"one": SLEEP})
    wait_for(lambda: states_in(tmp_path) == {"one": "running"})
    second.kill()
    second.wait(60)
    assert len(processes_in(tmp_path)) == 1
    assert stop_services(state_file)
    assert processes_in(tmp_path) == []


def test_no_process_is_ended_for_a_number_that_another_one_had(tmp_path: Path) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", SLEEP], start_new_session=True)
    try:
        found = read_process(bystander.pid)
        assert found is not None
        mine = read_process(os.getpid())
        assert mine is not None
        other = ServiceState(
            name="one", mark="m", pid=bystander.pid, started_ticks=found.started_ticks - 1
        )
        same = other.model_copy(update={"started_ticks": found.started_ticks})
        assert other.find_processes() == []
        assert same.find_processes() == [found]
        before_restart = Services(
            supervisor_pid=mine.pid,
            supervisor_ticks=mine.started_ticks,
            boot="another run of the machine",
            services=(same,),
        )
        assert before_restart.find_processes() == []
        assert not before_restart.is_supervised()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_second_supervisor_is_refused(tmp_path: Path, start: Start) -> None:
    start({"one": SLEEP})
    wait_for(lambda: states_in(tmp_path) == {"one": "running"})
    with pytest.raises(ServiceError, match="another one runs"):
        supervise([], tmp_path / "services.json")


def test_a_state_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "services.json").write_text("[]")
    with pytest.raises(ServiceError, match="expected what a supervisor writes"):
        read_services(tmp_path / "services.json")


def test_pauses_double_up_to_a_minute_and_begin_anew_after_five_good_minutes() -> None:
    pauses_s, pause_s = [], 0.0
    for _ in range(8):
        pause_s = next_pause_s(pause_s, lived_s=2.0)
        pauses_s.append(pause_s)
    assert pauses_s == [1, 2, 4, 8, 16, 32, 60, 60]
    assert next_pause_s(60.0, lived_s=59.0) == 60
    assert next_pause_s(60.0, lived_s=60.0) == 1


def test_a_long_log_moves_aside_while_the_service_writes_on(tmp_path: Path, start: Start) -> None:
    loud = (
        "import time\n"
        "for number in range(120): print(str(number % 10) * 100_000, flush=True)\n"
        "while True: print('and on', flush=True); time.sleep(0.1)"
    )
    start({"loud": loud})
    log, moved = tmp_path / "loud.log", tmp_path / "loud.log.1"
    wait_for(lambda: moved.exists() and moved.stat().st_size > 10_000_000)
    wait_for(lambda: log.read_bytes().endswith(b"and on\n") and log.stat().st_size < 10_000_000)
