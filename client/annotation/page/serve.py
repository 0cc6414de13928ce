"""Runs the page on this machine until it is stopped, and prints links to it."""

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType

import uvicorn

from client.annotation.page.access import Access
from client.annotation.page.app import make_app
from client.annotation.page.desk import Desk
from client.annotation.page.previews import Previews
from client.store.store import Store
from common.errors import SettingsError
from common.plan import FederationPlan

LOOPBACK, STDIN = "127.0.0.1", 0
PATIENCE_S = 5  # for requests under way when the page is stopped


def listen(port: int) -> socket.socket:
    """A socket on the loopback; port 0 takes one that is free.

    Raises:
        SettingsError: the port is taken, or not ours to take.
    """
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((LOOPBACK, port))
        # From here on a link that is opened waits for the server instead of finding nobody.
        listener.listen()
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"port {port} on {LOOPBACK} cannot be used: {error.strerror}; choose another, or 0 for "
            "any that is free"
        ) from None
    return listener


def serve(
    store: Store,
    plan: FederationPlan,
    previews: Previews,
    annotators: Sequence[str],
    *,
    port: int = 0,
    task: str | None = None,
) -> None:
    """Serves the page to the annotators until Ctrl-C or SIGTERM; of one task, or all.

    Enter, or SIGUSR1, prints a fresh link for each annotator: a link works once.
    """
    with listen(port) as listener:
        access = Access(listener.getsockname()[1])

        def print_links() -> None:
            for annotator, link in access.fresh_links(annotators).items():
                print(f"{annotator}: {link}", flush=True)

        server = make_server(Desk(store, plan, access, previews, task))
        print_links()
        print("Press Enter for fresh links, Ctrl-C to stop.", flush=True)
        # uvicorn stops at the signal, then raises it again: as KeyboardInterrupt, both kinds.
        with _links_on_demand(print_links), suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    print("Stopped. What was painted is saved.", flush=True)


def make_server(desk: Desk) -> uvicorn.Server:
    """The page in a server that says nothing about itself and trusts no proxy."""
    config = uvicorn.Config(
        make_app(desk),
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=PATIENCE_S,
    )
    return uvicorn.Server(config)


@contextmanager
def _links_on_demand(print_links: Callable[[], None]) -> Iterator[None]:
    """Listens for Enter and for SIGUSR1 while the server runs."""
    stopped = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        # In a thread: the signal may have come while the links' lock was held by the one it stops.
        threading.Thread(target=print_links).start()

    def on_enter() -> None:
        # Without sys.stdin's buffer: its lock, held here at the end, would abort the interpreter.
        while not stopped.is_set():
            ready, _, _ = select.select([STDIN], [], [], 0.2)
            typed = os.read(STDIN, 4096) if ready else None
            if typed == b"":
                return
            if typed is not None and b"\n" in typed:
                print_links()

    before = signal.signal(signal.SIGUSR1, on_signal)
    before_term = signal.signal(signal.SIGTERM, signal.default_int_handler)
    listening = threading.Thread(target=on_enter, name="links")
    listening.start()
    try:
        yield
    finally:
        stopped.set()
        listening.join()
        signal.signal(signal.SIGUSR1, before)
        signal.signal(signal.SIGTERM, before_term)
