"""Flower's connection without a network: messages go straight to the ClientApps in this process.

Hospitals answer one after another, in the order they are asked.
"""

import itertools
from collections.abc import Iterable, Mapping

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.run import Run

# Since 1.38 a Message can be made only by a process that has this identity. It is private to
# Flower, and there is no other way to run its apps outside its own processes.
from flwr.supercore.task_identity import TaskIdentity

CLIENT_FAILED = 2  # Flower's own code for an exception in a ClientApp


class NoAnswer(Exception):  # noqa: N818  (it is what happens, not what went wrong)
    """Raised by a hospital that is to give no answer at all."""


class LocalGrid(Grid):
    """Runs `client_app` once per node, with each node's own settings."""

    def __init__(
        self, client_app: ClientApp, node_configs: Mapping[int, dict[str, str | int]]
    ) -> None:
        """Node ids with the node settings that each ClientApp sees."""
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 1
        self._client_app = client_app
        self._contexts = {
            node: Context(
                run_id=1,
                node_id=node,
                node_config=dict(config),
                state=RecordDict(),
                run_config={},
            )
            for node, config in node_configs.items()
        }
        self._replies: dict[str, Message] = {}
        self._numbers = itertools.count(1)

    def get_node_ids(self) -> list[int]:
        """All nodes are online."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Has each message answered on the spot."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies there are, each handed out once."""
        return [self._replies.pop(one) for one in list(message_ids) if one in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push and pull; nothing is left to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def set_run(self, run: Run) -> None:
        """There is only one run."""

    @property
    def run(self) -> Run:
        """There is only one run."""
        return Run.create_empty(run_id=1)

    def create_message(self, *_: object, **__: object) -> Message:
        """Deprecated in Flower; messages are made with `Message(...)`."""
        raise NotImplementedError

    def _deliver(self, message: Message) -> str:
        number = f"message-{next(self._numbers)}"
        message.metadata.__dict__["_message_id"] = number
        context = self._contexts[message.metadata.dst_node_id]
        try:
            self._replies[number] = self._client_app(message, context)
        except NoAnswer:
            pass
        except Exception as error:  # noqa: BLE001  (any failure of a client is a failed reply)
            failed = Error(code=CLIENT_FAILED, reason=type(error).__name__)
            self._replies[number] = Message(failed, reply_to=message)
        return number
