"""The network that misbehaves on demand does what the fault tests take it to do."""

import socket
import threading
from collections.abc import Iterator

import pytest
from flaky_network import FlakyNetwork, flaky_network


@pytest.fixture
def echo_port() -> Iterator[int]:
    """A server that sends back what it gets."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    try:
                        while data := connection.recv(65536):
                            connection.sendall(data)
                    except OSError:
                        continue

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def network(echo_port: int) -> Iterator[FlakyNetwork]:
    with flaky_network(echo_port) as one:
        yield one


def exchange(port: int, data: bytes) -> bytes:
    """What comes back; less than was sent if the connection is cut."""
    back = b""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        try:
            connection.sendall(data)
            while len(back) < len(data) and (piece := connection.recv(65536)):
                back += piece
        except OSError:
            pass
    return back


def has_ended(connection: socket.socket) -> bool:
    """Waits for the other side to end it, in good order or not."""
    try:
        return connection.recv(10) == b""
    except ConnectionResetError:
        return True


def test_it_passes_bytes_on_both_ways(network: FlakyNetwork) -> None:
    data = bytes(range(256)) * 400
    assert exchange(network.port, data) == data
    assert network.bytes_up == len(data)


def test_it_cuts_a_transfer_in_its_midst(network: FlakyNetwork) -> None:
    network.cut_after_bytes = 50_000
    assert len(exchange(network.port, b"x" * 200_000)) < 200_000
    assert network.cuts == 1
    network.cut_after_bytes = None
    assert exchange(network.port, b"again") == b"again"


def test_while_it_is_down_nothing_passes_and_open_connections_end(network: FlakyNetwork) -> None:
    with socket.create_connection(("127.0.0.1", network.port), timeout=5) as connection:
        connection.sendall(b"one")
        assert connection.recv(10) == b"one"
        network.down = True
        assert has_ended(connection)
    assert exchange(network.port, b"two") == b""
    network.down = False
    assert exchange(network.port, b"three") == b"three"
