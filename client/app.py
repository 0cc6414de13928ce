"""The ClientApp: hands a message on to the hospital's own code and returns its reply.

Nothing heavy is imported and no scan is opened here. In a deployed hospital this file arrives from
the coordinator and talks to the worker that the hospital installed; in a simulation the hospital's
`answer` is called directly.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from common.messages import bytes_to_content, content_to_request_bytes
from common.updates import LocalUpdate, Note, encode_update

NodeConfig = Mapping[str, bool | float | int | str]
Answer = Callable[[bytes], bytes]
# The last two are what multiprocessing raises over a socket that does not speak its handshake.
UNREACHABLE = (OSError, EOFError, AuthenticationError, ValueError, AssertionError)


def make_client_app(answer_of: Callable[[NodeConfig], Answer]) -> ClientApp:
    """A ClientApp for the hospital that `answer_of` finds by the node's own settings."""
    client_app = ClientApp()

    def hand_on(message: Message, context: Context) -> Message:
        answer = answer_of(context.node_config)
        reply = answer(content_to_request_bytes(message.content))
        return Message(bytes_to_content(reply), reply_to=message)

    client_app.train()(hand_on)
    client_app.query()(hand_on)
    return client_app


def answer_of_worker(node_config: NodeConfig) -> Answer:
    """Asks the worker whose socket and secret the hospital's SuperNode was started with.

    The connection proves the secret both ways and carries bytes only, never pickled objects.
    """

    def answer(request: bytes) -> bytes:
        name = str(node_config["hospital"])
        try:
            secret = Path(str(node_config["secret-file"])).read_bytes()
            with Client(str(node_config["worker"]), family="AF_UNIX", authkey=secret) as worker:
                # A worker that finds the message too large says so and reads no further.
                with suppress(BrokenPipeError, ConnectionResetError):
                    worker.send_bytes(request)
                return worker.recv_bytes()
        except UNREACHABLE:
            # The text of these errors holds paths; a fixed one leaves the building.
            note = Note(hospital=name, outcome="failed", reason="the worker cannot be reached")
            return encode_update(LocalUpdate({}, note))

    return answer


app = make_client_app(answer_of_worker)
