"""The hospital's long-lived process: owns data, models and GPU, and answers over a local socket.

Flower starts a new process for every message; loading torch and MONAI there would cost seconds each
round. This one stays, and is the code that the hospital installed, not code that arrived.

Each caller is served by a thread of its own, and a caller who falls silent is dropped, so that none
holds up the next. Rounds are computed one at a time: they share the memory and the graphics card.
A greeting does not wait for them: a coordinator that was restarted greets every hospital while the
round that it lost is still being computed, and an answer hours later would look like a dead node.
A round whose caller is gone is finished all the same, and its reply is stored: asked again, it is
returned at once. One that was still waiting for its turn is dropped with its caller.

As two users: the worker runs as the owner of the store, the SuperNode as another user who cannot
read it; both are in one group, which `--group` lets reach the socket and the secret and nothing
else (`client/node_group.py`). As one user, code that was approved could read the store's files.
"""

import logging
import os
import secrets
import socket as sockets
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from pathlib import Path

from client.approvals import largest_request_bytes
from client.local_round import Hospital, answer, failed_reply
from client.supernode import ANOTHER_WORKER
from common.errors import ServiceError
from common.file_lock import hold_file
from common.updates import action_of

log = logging.getLogger(__name__)

# The last two are what multiprocessing raises over a caller that does not speak its handshake.
REFUSED = (AuthenticationError, EOFError, OSError, ValueError, AssertionError)
OWNER_ONLY, OWNER_AND_GROUP = 0o600, 0o660
# The longest silence in the middle of a message. Between handshake and request a ClientApp does
# nothing but copy the message, so this is long.
SILENCE_S = 30.0
MOST_CALLERS = 16
TOO_LARGE = "the message is larger than any approved plan needs"


@dataclass(frozen=True)
class Door:
    """Where callers come in.

    Attributes:
        socket: the path of the socket; what an ended worker left there is replaced.
        secret: what a caller has to know.
        group: the number of the group that may use the socket; none: its owner only.
        silence_s: how long a caller may say nothing before it is dropped.
    """

    socket: Path
    secret: bytes
    group: int | None = None
    silence_s: float = SILENCE_S


def make_secret(path: Path) -> bytes:
    """The secret in `path`, made on first use and readable by its owner only."""
    # Empty: its making was ended in between. An empty secret would let anybody in.
    if not path.exists() or path.stat().st_size == 0:
        path.touch(mode=OWNER_ONLY)
        path.write_bytes(secrets.token_hex(32).encode())
    return path.read_bytes()


def serve(hospital: Hospital, door: Door) -> None:
    """Answers requests until the process is ended.

    A caller without the secret, or one that breaks off, is logged and costs the others nothing.

    Raises:
        ServiceError: another worker answers there.
    """
    desk = Desk(hospital, door)
    with _only_worker(door.socket), _listen(door) as listener:
        print(f"{hospital.store.hospital}: answering on {door.socket}", flush=True)
        while True:
            try:
                caller, _ = listener.accept()
            except OSError as error:
                log.warning("a caller could not be let in: %s", error)
                continue
            if not desk.places.acquire(blocking=False):
                log.warning("a caller was sent away: %d are here already", MOST_CALLERS)
                caller.close()
                continue
            threading.Thread(target=desk.attend, args=(caller,), daemon=True).start()


@contextmanager
def _only_worker(socket: Path) -> Iterator[None]:
    try:
        with hold_file(socket.with_name(f"{socket.name}.lock"), wait=False):
            yield
    except BlockingIOError:
        raise ServiceError(
            f"{ANOTHER_WORKER} on {socket}: leave it as it is, or end it first (stop `oneslice "
            "hospital join`, or the service that runs `oneslice hospital worker`)"
        ) from None


@contextmanager
def _listen(door: Door) -> Iterator[sockets.socket]:
    door.socket.unlink(missing_ok=True)
    with sockets.socket(sockets.AF_UNIX) as listener:
        # Made for its owner alone, and only then given to the group: nobody comes in between.
        before = os.umask(0o177)
        try:
            listener.bind(str(door.socket))
        finally:
            os.umask(before)
        if door.group is not None:
            os.chown(door.socket, -1, door.group)
            door.socket.chmod(OWNER_AND_GROUP)
        listener.listen(MOST_CALLERS)
        yield listener


@dataclass(frozen=True)
class Desk:
    """Where the callers are served: a place for each, and one turn at computing for all."""

    hospital: Hospital
    door: Door
    turn: threading.Lock = field(default_factory=threading.Lock)
    places: threading.BoundedSemaphore = field(
        default_factory=lambda: threading.BoundedSemaphore(MOST_CALLERS)
    )

    def attend(self, caller: sockets.socket) -> None:
        """Serves one caller from the handshake to the answer. Never raises."""
        try:
            _limit_silence(caller, self.door.silence_s)
            with Connection(caller.detach()) as connection:
                self._serve(connection)
        except REFUSED as error:
            log.warning("a caller was refused or broke off: %s", type(error).__name__)
        except MemoryError:
            log.warning("a message did not fit into the memory")
        except Exception:
            log.exception("a caller could not be served")
        finally:
            self.places.release()

    def _serve(self, connection: Connection) -> None:
        deliver_challenge(connection, self.door.secret)
        answer_challenge(connection, self.door.secret)
        largest = largest_request_bytes(self.hospital.node)
        try:
            request = connection.recv_bytes(largest)
        except OSError as error:
            # A message that is too large leaves the connection open for writing, and only that.
            if connection.closed or connection.readable:
                raise
            log.warning("a message of more than %d bytes was refused: %s", largest, error)
            connection.send_bytes(failed_reply(self.hospital, TOO_LARGE))
            return
        reply = self._answer(request, lambda: _is_gone(connection))
        if reply is not None:
            connection.send_bytes(reply)

    def _answer(self, request: bytes, is_gone: Callable[[], bool]) -> bytes | None:
        """The reply; None if the caller left while it waited for its turn."""
        if action_of(request) not in ("train", "score"):
            return answer(self.hospital, request)
        with self.turn:
            if is_gone():
                log.warning("a caller left before its turn: nothing was computed")
                return None
            return answer(self.hospital, request)


def _limit_silence(caller: sockets.socket, seconds: float) -> None:
    """Has the kernel end every single wait for this caller, in both directions."""
    whole = int(seconds)
    limit = struct.pack("ll", whole, int((seconds - whole) * 1e6))
    for option in (sockets.SO_RCVTIMEO, sockets.SO_SNDTIMEO):
        caller.setsockopt(sockets.SOL_SOCKET, option, limit)


def _is_gone(connection: Connection) -> bool:
    # Whoever waits for an answer says nothing: what can be read is the end of the connection.
    return connection.poll(0)
