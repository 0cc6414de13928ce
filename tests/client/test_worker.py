"""A real worker process behind a real socket, asked as the ClientApp asks it."""

import errno
import multiprocessing
import os
import socket as sockets
import stat
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client, Connection, answer_challenge, deliver_challenge
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from client.app import Answer, answer_of_worker
from client.approvals import BESIDE_TENSORS_BYTES, approve, asked_plans, withdraw
from client.failures import sentence_of
from client.local_round import Hospital
from client.node_group import share_with_group
from client.store.audit import read_audit
from client.store.store import create_store
from client.supernode import is_listening
from client.worker import MOST_CALLERS, Desk, Door, make_secret, serve
from common.errors import DiskFullError, ServiceError, SettingsError
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.updates import Note, RoundRequest, decode_update, encode_request

MakePlan = Callable[..., FederationPlan]
STARTS_WITHIN_S = 120
SILENCE_S = 1.0


class Worker:
    """A running worker: where it listens, and its process."""

    def __init__(self, folder: Path) -> None:
        self.node = folder / "node"
        self.node.mkdir()
        self.socket, self.secret_file = self.node / "worker.sock", self.node / "worker.secret"
        self.store = create_store(folder / "store", "north")
        hospital = Hospital(self.store, "cpu", node=self.node)
        # What a worker that was killed leaves behind.
        self.socket.touch()
        door = Door(self.socket, make_secret(self.secret_file), silence_s=SILENCE_S)
        arguments = (hospital, door)
        # Not forked: threads of this process's libraries would be half there.
        spawn = multiprocessing.get_context("spawn")
        self.process: BaseProcess = spawn.Process(target=serve, args=arguments, daemon=True)
        self.process.start()

    def answer(self, secret_file: Path | None = None) -> Answer:
        """The way to ask it, with its own secret or another."""
        return answer_of_worker(
            {
                "hospital": "north",
                "worker": str(self.socket),
                "secret-file": str(secret_file or self.secret_file),
            }
        )


@pytest.fixture(scope="module")
def running() -> Iterator[Worker]:
    """One worker for all tests of this file: that it goes on serving is what they are about."""
    # pytest's own folders have longer names than a socket may have.
    with tempfile.TemporaryDirectory() as folder:
        running = Worker(Path(folder))
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not running.socket.is_socket() and time.monotonic() < deadline:
            assert running.process.is_alive()
            time.sleep(0.1)
        yield running
        running.process.terminate()
        running.process.join()


@pytest.fixture
def worker(running: Worker, make_plan: MakePlan) -> Worker:
    """The worker of a hospital that approved the plan."""
    approve(running.store, running.node, "ines", bundle=None, plans=[make_plan()])
    return running


@pytest.fixture
def hello(make_plan: MakePlan) -> bytes:
    """A request that is answered at once."""
    return encode_request(RoundRequest(action="hello", plan=make_plan(), round=0), {})


def note_of(reply: bytes) -> Note:
    return decode_update(reply).note


def assert_serves(worker: Worker, hello: bytes) -> None:
    assert note_of(worker.answer()(hello)).outcome == "greeted"
    assert worker.process.is_alive()


def test_a_request_is_answered(worker: Worker, hello: bytes) -> None:
    note = note_of(worker.answer()(hello))
    assert (note.outcome, note.hospital) == ("greeted", "north")


def test_a_round_with_tensors_is_answered(worker: Worker, make_plan: MakePlan) -> None:
    plan = make_plan()
    request = RoundRequest(action="train", plan=plan, round=1)
    data = encode_request(request, networks_to_arrays(build_networks(plan)))
    assert note_of(worker.answer()(data)).outcome == "abstained"


def test_bytes_that_are_no_request_are_answered(worker: Worker, hello: bytes) -> None:
    note = note_of(worker.answer()(b"no request"))
    assert (note.outcome, note.reason) == ("failed", "SettingsError: see the hospital's log")
    assert_serves(worker, hello)


@pytest.mark.parametrize("secret", [b"guessed", b""], ids=["wrong", "empty"])
def test_a_wrong_secret_is_refused_and_the_worker_survives(
    worker: Worker, hello: bytes, tmp_path: Path, secret: bytes
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_bytes(secret)
    note = note_of(worker.answer(wrong)(hello))
    assert (note.outcome, note.reason) == ("failed", "the worker cannot be reached")
    assert_serves(worker, hello)


def test_a_caller_that_hangs_up_leaves_the_worker_serving(worker: Worker, hello: bytes) -> None:
    with sockets.socket(sockets.AF_UNIX) as caller:
        caller.connect(str(worker.socket))
    assert_serves(worker, hello)
    with Client(str(worker.socket), "AF_UNIX", authkey=worker.secret_file.read_bytes()):
        pass
    assert_serves(worker, hello)


def test_a_caller_that_does_not_wait_for_its_answer_leaves_the_worker_serving(
    worker: Worker, hello: bytes
) -> None:
    secret = worker.secret_file.read_bytes()
    with Client(str(worker.socket), "AF_UNIX", authkey=secret) as caller:
        caller.send_bytes(hello)
    assert_serves(worker, hello)


@pytest.mark.parametrize(
    "noise",
    [b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 400, b"\x00\x00\x00\x04{\xff\xfe}", b"\x00" * 4],
    ids=["http", "huge", "digest-name", "empty"],
)
def test_noise_leaves_the_worker_serving(worker: Worker, hello: bytes, noise: bytes) -> None:
    with sockets.socket(sockets.AF_UNIX) as caller:
        caller.connect(str(worker.socket))
        caller.sendall(noise)
    assert_serves(worker, hello)


def test_only_the_owner_may_open_the_socket(worker: Worker, hello: bytes) -> None:
    assert_serves(worker, hello)
    assert stat.S_IMODE(worker.socket.stat().st_mode) == 0o600


def test_the_secret_is_made_once_and_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    secret = make_secret(path)
    assert len(secret) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert make_secret(path) == secret
    assert make_secret(tmp_path / "other") != secret


def test_a_secret_whose_making_was_cut_off_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    assert len(make_secret(path)) == 64


# Consent ----------------------------------------------------------------------------------------


def test_a_plan_that_is_not_approved_is_refused_and_kept(
    worker: Worker, make_plan: MakePlan, hello: bytes
) -> None:
    other = make_plan(name="other")
    for action in ("hello", "train", "hello"):
        request = RoundRequest(action=action, plan=other, round=int(action == "train"))
        note = note_of(worker.answer()(encode_request(request, {})))
        assert note.outcome == "failed"
        assert note.reason == "this plan is not approved at this hospital yet"
    assert asked_plans(worker.node) == [other]
    told = [row for row in read_audit(worker.store) if other.federation in row.details]
    assert len(told) == 1, "one row however often a coordinator asks"
    assert_serves(worker, hello)

    approve(worker.store, worker.node, "ines", bundle=None, plans=[other])
    greeting = encode_request(RoundRequest(action="hello", plan=other, round=0), {})
    assert note_of(worker.answer()(greeting)).outcome == "greeted"
    assert asked_plans(worker.node) == []
    withdraw(worker.store, worker.node, other.federation, "ines")
    assert note_of(worker.answer()(greeting)).outcome == "failed"


def test_approvals_that_cannot_be_read_let_nothing_through(worker: Worker, hello: bytes) -> None:
    (worker.node / "approvals.json").write_text('{"plans": "all"}')
    note = note_of(worker.answer()(hello))
    assert (note.outcome, note.reason) == ("failed", "SettingsError: see the hospital's log")
    (worker.node / "approvals.json").unlink()


# Callers ----------------------------------------------------------------------------------------


def test_a_message_larger_than_the_plan_needs_is_refused_with_a_reason(
    worker: Worker, hello: bytes
) -> None:
    note = note_of(worker.answer()(bytes(BESIDE_TENSORS_BYTES + 10_000_000)))
    assert (note.outcome, note.reason) == (
        "failed",
        "the message is larger than any approved plan needs",
    )
    assert_serves(worker, hello)


def connect(worker: Worker) -> sockets.socket:
    caller = sockets.socket(sockets.AF_UNIX)
    caller.connect(str(worker.socket))
    return caller


def test_silent_callers_block_nobody_and_are_dropped(worker: Worker, hello: bytes) -> None:
    silent = [connect(worker) for _ in range(MOST_CALLERS - 1)]
    assert_serves(worker, hello)
    one_more = connect(worker)
    for caller in (*silent, one_more):
        with caller:
            caller.settimeout(60)
            while caller.recv(1000):
                pass  # the worker's challenge, then its hanging up
    assert_serves(worker, hello)


def test_a_caller_that_stops_in_the_middle_of_a_message_is_dropped(
    worker: Worker, hello: bytes
) -> None:
    secret = worker.secret_file.read_bytes()
    with Client(str(worker.socket), "AF_UNIX", authkey=secret) as caller:
        os.write(caller.fileno(), (1000).to_bytes(4, "big") + b"half")
        with pytest.raises(EOFError):
            caller.recv_bytes()
    assert_serves(worker, hello)


def test_several_callers_at_once_are_all_answered(
    worker: Worker, hello: bytes, make_plan: MakePlan
) -> None:
    plan = make_plan()
    arrays = networks_to_arrays(build_networks(plan))
    train = encode_request(RoundRequest(action="train", plan=plan, round=1), arrays)
    outcomes: list[str] = []

    def ask(request: bytes) -> None:
        outcomes.append(note_of(worker.answer()(request)).outcome)

    threads = [threading.Thread(target=ask, args=(one,)) for one in [train, hello] * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["abstained"] * 4 + ["greeted"] * 4


# Failures ---------------------------------------------------------------------------------------


def test_only_fixed_sentences_leave() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/store/patient-7.npy")
    assert (
        sentence_of(full)
        == sentence_of(DiskFullError("/store"))
        == ("the disk is full at this hospital")
    )
    assert sentence_of(MemoryError("12 GB")) == "the memory is full at this hospital"
    assert sentence_of(SettingsError("/store")) == "SettingsError: see the hospital's log"
    assert sentence_of(OSError("/store/patient-7")) == "see the hospital's log"
    import torch

    assert sentence_of(torch.cuda.OutOfMemoryError("x")) == "the memory is full at this hospital"


# One at a time ----------------------------------------------------------------------------------


def test_a_second_worker_is_refused_and_the_first_goes_on(
    worker: Worker, hello: bytes, tmp_path: Path
) -> None:
    other = Hospital(create_store(tmp_path / "other", "south"), "cpu")
    before = worker.socket.stat().st_ino
    with pytest.raises(ServiceError, match=r"another worker answers on .*: leave it as it is, or"):
        serve(other, Door(worker.socket, b"other"))
    assert worker.socket.stat().st_ino == before
    assert is_listening(worker.socket)
    assert_serves(worker, hello)


def test_nobody_else_can_hold_the_workers_place(worker: Worker) -> None:
    lock = worker.socket.with_name("worker.sock.lock")
    assert stat.S_IMODE(lock.stat().st_mode) == 0o600


def test_the_socket_of_an_ended_worker_is_not_one_that_listens() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "worker.sock"
        assert not is_listening(path)
        with sockets.socket(sockets.AF_UNIX) as ended:
            ended.bind(str(path))
            ended.listen()
            assert is_listening(path)
        assert path.is_socket()
        assert not is_listening(path)


def test_a_node_in_the_store_is_not_opened_to_a_group(tmp_path: Path) -> None:
    store = create_store(tmp_path / "store", "north")
    (store.folder / "federation").mkdir()
    with pytest.raises(SettingsError, match="outside of it with --node"):
        share_with_group(store.folder / "federation", store, os.getgid())


# Rounds that outlast their caller ---------------------------------------------------------------


def test_a_reply_that_nobody_waited_for_is_returned_when_asked_again(
    worker: Worker, make_plan: MakePlan
) -> None:
    plan = make_plan(name="late")
    approve(worker.store, worker.node, "ines", bundle=None, plans=[plan])
    arrays = networks_to_arrays(build_networks(plan))
    request = encode_request(RoundRequest(action="train", plan=plan, round=1), arrays)
    secret = worker.secret_file.read_bytes()
    stored = worker.store.folder / "rounds" / plan.federation
    with Client(str(worker.socket), "AF_UNIX", authkey=secret) as caller:
        caller.send_bytes(request)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not list(stored.glob("[0-9]*.reply")) and time.monotonic() < deadline:
            time.sleep(0.01)
    (reply,) = stored.glob("[0-9]*.reply")
    before = reply.stat().st_mtime_ns
    assert worker.answer()(request) == reply.read_bytes()
    assert [one.stat().st_mtime_ns for one in stored.glob("[0-9]*.reply")] == [before]


def test_a_greeting_does_not_wait_for_a_round_and_a_round_does(
    make_plan: MakePlan, hello: bytes, tmp_path: Path
) -> None:
    plan = make_plan()
    desk = Desk(Hospital(create_store(tmp_path / "store", "north"), "cpu"), Door(Path("x"), b"s"))
    arrays = networks_to_arrays(build_networks(plan))
    train = encode_request(RoundRequest(action="train", plan=plan, round=1), arrays)

    def call(request: bytes) -> tuple[Connection, threading.Thread]:
        desk.places.acquire()
        ours, theirs = sockets.socketpair()
        thread = threading.Thread(target=desk.attend, args=(theirs,))
        thread.start()
        connection = Connection(ours.detach())
        answer_challenge(connection, b"s")
        deliver_challenge(connection, b"s")
        connection.send_bytes(request)
        return connection, thread

    with desk.turn:  # a round is being computed
        waiting, its_thread = call(train)
        gone, other_thread = call(train)
        greeting, _ = call(hello)
        assert note_of(greeting.recv_bytes()).outcome == "greeted"
        assert not waiting.poll(0)
        gone.close()
    assert note_of(waiting.recv_bytes()).outcome == "abstained"
    its_thread.join()
    other_thread.join()
    sent = [row for row in read_audit(desk.hospital.store) if '"abstained"' in row.details]
    assert len(sent) == 1, "nothing was computed for the one that had left"
