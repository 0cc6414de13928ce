"""A real worker process behind a real socket, asked as the ClientApp asks it."""

import multiprocessing
import socket as sockets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Client
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from client.app import Answer, answer_of_worker
from client.local_round import Hospital
from client.store.store import create_store
from client.worker import make_secret, serve
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.updates import Note, RoundRequest, decode_update, encode_request

MakePlan = Callable[..., FederationPlan]
STARTS_WITHIN_S = 120


class Worker:
    """A running worker: where it listens, and its process."""

    def __init__(self, folder: Path) -> None:
        self.socket, self.secret_file = folder / "socket", folder / "secret"
        hospital = Hospital(create_store(folder / "store", "north"), "cpu")
        # What a worker that was killed leaves behind.
        self.socket.touch()
        arguments = (hospital, self.socket, make_secret(self.secret_file))
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
def worker() -> Iterator[Worker]:
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
