"""The hospital's long-lived process: owns data, models and GPU, and answers over a local socket.

Flower starts a new process for every message; loading torch and MONAI there would cost seconds each
round. This one stays, and is the code that the hospital installed, not code that arrived.
"""

import logging
import secrets
from multiprocessing import AuthenticationError
from multiprocessing.connection import Listener
from pathlib import Path

from client.local_round import Hospital, answer

log = logging.getLogger(__name__)

# The last two are what multiprocessing raises over a caller that does not speak its handshake.
REFUSED = (AuthenticationError, EOFError, OSError, ValueError, AssertionError)


def make_secret(path: Path) -> bytes:
    """The secret in `path`, made on first use and readable by its owner only."""
    # Empty: its making was ended in between. An empty secret would let anybody in.
    if not path.exists() or path.stat().st_size == 0:
        path.touch(mode=0o600)
        path.write_bytes(secrets.token_hex(32).encode())
    return path.read_bytes()


def serve(hospital: Hospital, socket: Path, secret: bytes) -> None:
    """Answers one request after another, until the process is ended.

    A connection without the secret, or one that breaks off, is logged and the next one served.
    """
    socket.unlink(missing_ok=True)
    with Listener(str(socket), family="AF_UNIX", authkey=secret) as listener:
        socket.chmod(0o600)
        while True:
            try:
                connection = listener.accept()
            except REFUSED as error:
                log.warning("a connection was refused: %s", type(error).__name__)
                continue
            with connection:
                try:
                    connection.send_bytes(answer(hospital, connection.recv_bytes()))
                except (EOFError, OSError) as error:
                    log.warning("a connection broke off: %s", type(error).__name__)
