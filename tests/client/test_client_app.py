"""The ClientApp: a message handed on, and a fixed sentence where there is nobody."""

import socket as sockets
import subprocess
import sys
import tempfile
from collections.abc import Callable
from multiprocessing.connection import Listener
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from flwr.app import Message

from client.app import NodeConfig, answer_of_worker, make_client_app
from common.messages import content_to_update, request_to_content
from common.plan import FederationPlan
from common.updates import (
    LocalUpdate,
    Note,
    RoundRequest,
    decode_request,
    decode_update,
    encode_update,
)
from simulations.local_grid import LocalGrid

HEAVY = ["torch", "monai", "nibabel", "mlflow", "torchio", "SimpleITK"]
REPOSITORY = Path(__file__).parents[2]


def test_importing_the_client_app_imports_nothing_heavy() -> None:
    code = f"import sys, client.app; print([m for m in {HEAVY} if m in sys.modules])"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def node_config(folder: Path, *, worker: str = "socket") -> NodeConfig:
    (folder / "secret").write_bytes(b"secret")
    return {
        "hospital": "north",
        "worker": str(folder / worker),
        "secret-file": str(folder / "secret"),
    }


def assert_unreachable(reply: bytes) -> None:
    update = decode_update(reply)
    wanted = Note(hospital="north", outcome="failed", reason="the worker cannot be reached")
    assert update.note == wanted
    assert update.arrays == {}


@pytest.mark.parametrize("worker", ["socket", "s" * 200], ids=["nobody", "name-too-long"])
def test_without_a_worker_a_fixed_sentence_leaves(tmp_path: Path, worker: str) -> None:
    assert_unreachable(answer_of_worker(node_config(tmp_path, worker=worker))(b"anything"))


def test_without_a_secret_a_fixed_sentence_leaves(tmp_path: Path) -> None:
    settings = node_config(tmp_path)
    (tmp_path / "secret").unlink()
    assert_unreachable(answer_of_worker(settings)(b"anything"))


def test_a_worker_that_dies_over_a_request_is_a_fixed_sentence_too() -> None:
    # pytest's own folders have longer names than a socket may have.
    with tempfile.TemporaryDirectory() as folder:
        settings = node_config(Path(folder))
        with Listener(str(settings["worker"]), "AF_UNIX", authkey=b"secret") as listener:

            def take_and_die() -> None:
                with listener.accept() as connection:
                    connection.recv_bytes()

            dying = Thread(target=take_and_die)
            dying.start()
            assert_unreachable(answer_of_worker(settings)(b"anything"))
            dying.join()


def test_a_socket_that_is_no_worker_is_a_fixed_sentence_too() -> None:
    with tempfile.TemporaryDirectory() as folder, sockets.socket(sockets.AF_UNIX) as other:
        settings = node_config(Path(folder))
        other.bind(str(settings["worker"]))
        other.listen()

        def greet() -> None:
            caller, _ = other.accept()
            with caller:
                caller.sendall(b"\x00\x00\x00\x05hello")

        greeting = Thread(target=greet)
        greeting.start()
        assert_unreachable(answer_of_worker(settings)(b"anything"))
        greeting.join()


def test_a_message_is_handed_on_and_the_reply_returned(
    make_plan: Callable[..., FederationPlan],
) -> None:
    sent = {"segmenter/w": np.arange(6, dtype=np.float32).reshape(2, 3)}
    asked: list[RoundRequest] = []

    def answer_of(config: NodeConfig) -> Callable[[bytes], bytes]:
        def answer(data: bytes) -> bytes:
            request, arrays = decode_request(data)
            asked.append(request)
            note = Note(
                hospital=str(config["hospital"]),
                outcome="trained",
                round=request.round,
                num_examples=5,
            )
            doubled = {name: 2 * array for name, array in arrays.items()}
            return encode_update(LocalUpdate(doubled, note))

        return answer

    request = RoundRequest(action="train", plan=make_plan(), round=3)
    content = request_to_content(request, sent)
    grid = LocalGrid(make_client_app(answer_of), {2: {"hospital": "north"}})
    for message_type in ("train", "query"):
        message = Message(content, dst_node_id=2, message_type=message_type)
        (reply,) = grid.pull_messages(grid.push_messages([message]))
        update = content_to_update(reply.content)
        assert (update.note.hospital, update.note.round) == ("north", 3)
        np.testing.assert_array_equal(update.arrays["segmenter/w"], 2 * sent["segmenter/w"])
        assert asked.pop() == request
