"""One real federation that is hit by one fault after another, and goes on.

Coordinator (SuperLink, nginx, MLflow), two hospitals, a network in between that misbehaves on
demand. One hospital runs as hospitals do; the other's worker lives in this process, so that it can
lie. The tests build on each other: each begins where the federation has got to.
"""

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from flaky_network import FlakyNetwork, flaky_network

from client import worker
from client.local_round import Hospital, answer
from client.node import node_of
from client.store.audit import verify_audit
from client.store.rounds import latest_round
from client.store.store import open_store
from client.supernode import worker_socket
from common.processes import read_process
from common.supervision import read_services
from common.updates import LocalUpdate, action_of, decode_update, encode_update
from server.checkpoints import load_state
from server.round_state import RoundState
from simulations.bench_deployed import tiny_scenario
from simulations.loopback import COORDINATOR, FEDERATION, Loopback, free_port
from simulations.process_tree import processes_below
from simulations.progress import no_progress
from simulations.run import prepare

HONEST, ROGUE = "hospital-1", "hospital-2"
MANY_ROUNDS = 500
pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(420),
    pytest.mark.skipif(
        not Path("/usr/sbin/nginx").exists(), reason="needs nginx (Debian: nginx-light)"
    ),
]
Spoil = Callable[[bytes], bytes]


@dataclass
class Deployed:
    """The deployment, the network on the way to it, and what the rogue makes of its replies."""

    loop: Loopback
    network: FlakyNetwork
    spoil: Spoil | None = None

    def state(self) -> RoundState:
        """The last saved round; from nothing to the first it takes a minute or two."""
        until = time.monotonic() + 240
        while True:
            found = load_state(self.loop.run.checkpoints, self.plan)
            if found is not None:
                return found
            assert time.monotonic() < until, "no round is saved"
            time.sleep(0.5)

    @property
    def plan(self):
        return self.loop.run.read_plan()

    def wait(self, holds: Callable[[RoundState], bool], seconds: float = 200) -> RoundState:
        until = time.monotonic() + seconds
        while not holds(state := self.state()):
            assert time.monotonic() < until, (self.loop.progress(), state.history[-1])
            time.sleep(0.3)
        return state

    def wait_averaged(self, hospital: str, rounds_more: int = 1) -> RoundState:
        """Until the hospital's model counts again in a round that begins after now."""
        now = self.state().round + 1  # the round that may be under way
        return self.wait(
            lambda state: (
                sum(hospital in one.averaged for one in state.history[now:]) >= rounds_more
            )
        )


@pytest.fixture(scope="module")
def deployed() -> Iterator[Deployed]:
    scenario = tiny_scenario(2, MANY_ROUNDS, channels=4)
    limits = {"quorum": 1, "deadline_s": 40.0, "join_deadline_s": 90.0}
    plan = scenario.plan.model_copy(
        update={"limits": scenario.plan.limits.model_copy(update=limits)}
    )
    with tempfile.TemporaryDirectory(prefix="oneslice-") as folder:
        port = free_port()
        with flaky_network(port) as network:
            loop = Loopback(Path(folder), port, network.port)
            stores = prepare(scenario, None, loop.folder / "prepared", no_progress).stores
            for name, store in stores.items():
                store.folder.rename(loop.store(name))
            loop.make_consortium(plan)
            for name in stores:
                loop.admit(name)
            one = Deployed(loop, network)
            with loop.running(HONEST), rogue_worker(one), rogue_supernode(loop):
                loop.start()
                one.wait_averaged(ROGUE)
                yield one


@contextmanager
def rogue_worker(deployed: Deployed) -> Iterator[None]:
    """The hospital's real worker, but for what it makes of its replies."""
    store = open_store(deployed.loop.store(ROGUE))
    node = node_of(store.folder, None)
    door = worker.Door(worker_socket(node), worker.make_secret(node.worker_secret))

    def answer_and_lie(hospital: Hospital, request: bytes) -> bytes:
        reply = answer(hospital, request)
        trains = action_of(request) == "train"
        return deployed.spoil(reply) if trains and deployed.spoil else reply

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(worker, "answer", answer_and_lie)
        hospital = Hospital(store, node=node.path)
        threading.Thread(target=worker.serve, args=(hospital, door), daemon=True).start()
        yield


@contextmanager
def rogue_supernode(loop: Loopback) -> Iterator[None]:
    """The other half of that hospital, started again when it ends, as systemd does."""
    command = ("hospital", "supernode", "--node", str(loop.store(ROGUE) / "federation"))
    ended = threading.Event()

    def keep_running() -> None:
        while not ended.is_set():
            loop.launch_command(ROGUE, *command)
            while loop.processes[ROGUE].poll() is None and not ended.wait(0.5):
                pass

    thread = threading.Thread(target=keep_running)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        below = processes_below(loop.processes[ROGUE].pid)
        loop.halt(ROGUE)
        for one in below:  # Flower leaves the program that starts ClientApps behind
            with suppress(ProcessLookupError):
                kill(one.pid)


def service_pid(state_file: Path, name: str) -> int:
    services = read_services(state_file)
    assert services is not None
    (found,) = [one for one in services.services if one.name == name]
    assert found.pid is not None
    return found.pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("service", ["worker", "supernode"])
def test_a_hospitals_service_that_is_killed_comes_back(deployed: Deployed, service: str) -> None:
    services = deployed.loop.store(HONEST) / "federation" / "services.json"
    before = service_pid(services, service)
    deployed.loop.wait_until(lambda progress: HONEST in progress.waiting_for, 60)
    kill(before)
    deployed.wait_averaged(HONEST)
    assert service_pid(services, service) != before
    assert "restarts: " in deployed.loop.hospital("status", HONEST)


def test_a_network_that_is_down_slow_or_cuts_transfers_costs_no_round(deployed: Deployed) -> None:
    network = deployed.network
    deployed.loop.wait_until(lambda progress: HONEST in progress.waiting_for, 60)
    network.down = True
    time.sleep(8)
    network.down = False
    deployed.wait_averaged(HONEST)
    network.cut_after_bytes, cuts = 4_000, network.cuts
    time.sleep(10)
    assert network.cuts > cuts, "nothing was large enough to be cut"
    network.cut_after_bytes = None
    deployed.wait_averaged(HONEST)
    network.delay_s = 0.05
    deployed.wait_averaged(HONEST)
    network.delay_s = 0.0


def as_nan(reply: bytes) -> bytes:
    update = decode_update(reply)
    arrays = {name: array * np.float32("nan") for name, array in update.arrays.items()}
    return encode_update(LocalUpdate(arrays, update.note))


def in_another_shape(reply: bytes) -> bytes:
    update = decode_update(reply)
    return encode_update(
        LocalUpdate({name: array[None] for name, array in update.arrays.items()}, update.note)
    )


def huge(reply: bytes) -> bytes:
    update = decode_update(reply)
    more = {"segmenter/more": np.zeros(8_000_000, np.float32)}
    return encode_update(LocalUpdate({**update.arrays, **more}, update.note))


def late(reply: bytes) -> bytes:
    time.sleep(45)
    return reply


LIES = {as_nan: "bad_reply", in_another_shape: "bad_reply", huge: "bad_reply", late: "silent"}


def test_a_hospital_that_lies_is_left_out_and_named(deployed: Deployed) -> None:
    for lie, kind in LIES.items():
        first = deployed.state().round
        deployed.spoil = lie

        def named(state: RoundState, first: int = first, kind: str = kind) -> bool:
            dropped = [one for record in state.history[first:] for one in record.dropped]
            return (ROGUE, kind) in [(one.hospital, one.kind) for one in dropped]

        state = deployed.wait(named)
        assert all(np.isfinite(array).all() for array in state.arrays.values()), lie
    deployed.spoil = None
    state = deployed.wait_averaged(ROGUE)
    assert any(record.averaged == (HONEST,) for record in state.history)


@pytest.mark.parametrize("program", ["flwr-serverapp", "flower-superlink"])
def test_a_server_that_is_killed_resumes(deployed: Deployed, program: str) -> None:
    loop = deployed.loop
    loop.wait_until(lambda progress: progress.phase == "asking", 60)
    pid = loop.processes[COORDINATOR].pid
    (victim,) = [one for one in processes_below(pid) if one.name == program]
    before = loop.progress()
    kill(victim.pid)
    after = deployed.wait_averaged(HONEST)
    progress = loop.progress()
    assert before is not None
    assert progress is not None
    assert progress.run_id != before.run_id
    assert [one.round for one in after.history] == list(range(1, after.round + 1))


def test_a_coordinator_whose_machine_was_off_goes_on(deployed: Deployed) -> None:
    loop = deployed.loop
    before = deployed.state().round
    supervisor = loop.processes[COORDINATOR]
    for one in [supervisor.pid, *(one.pid for one in processes_below(supervisor.pid))]:
        if read_process(one) is not None:
            kill(one)
    supervisor.wait()
    time.sleep(20)
    loop.launch(COORDINATOR)
    state = deployed.wait_averaged(HONEST)
    assert state.round > before
    assert [one.round for one in state.history] == list(range(1, state.round + 1))


def test_another_federation_follows_on_the_same_stores(deployed: Deployed) -> None:
    loop, first = deployed.loop, deployed.plan
    last = deployed.state()
    loop.coordinator("stop", FEDERATION)
    values = first.model_dump(mode="json", exclude_none=True)
    values["name"] = "next"
    values["tasks"][0]["rounds"] = 1
    plan_file = loop.folder / "next.toml"
    plan_file.write_text(tomli_w.dumps(values), encoding="utf-8")
    for name in (HONEST, ROGUE):
        loop.hospital("approve", name, "--plan", str(plan_file), "--yes", "--by", "it")
    loop.coordinator("start", str(plan_file), "--name", "next")
    until = time.monotonic() + 200
    while "finished" not in loop.coordinator("status", "next"):
        assert time.monotonic() < until, loop.coordinator("status")
        time.sleep(2)
    stopped = load_state(loop.run.checkpoints, first)
    assert stopped is not None
    assert stopped.round in (last.round, last.round + 1)
    for name in (HONEST, ROGUE):
        store = open_store(loop.store(name))
        verify_audit(store)
        assert latest_round(store, first.federation) in (stopped.round, stopped.round + 1)
