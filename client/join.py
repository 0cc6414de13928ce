"""The hospital's side of a federation as one supervised pair: the worker and the SuperNode."""

import os
import sys
from functools import partial
from pathlib import Path

from client.node import Node
from client.supernode import ANOTHER_WORKER, is_listening, worker_socket, write_programs
from common.quiet import QUIET
from common.supervision import Service, supervise

ONESLICE = Path(sys.executable).parent / "oneslice"
WORKER, SUPERNODE = "worker", "supernode"
# What the SuperNode says in its log, and what that means here.
EXPLAINED = {
    ANOTHER_WORKER: "another worker runs already: end it, or do not `join`",
    "Failed to activate SuperNode": "the coordinator does not know this hospital's key (yet, or "
    "no longer): send it request.json, and wait until it is registered",
    "CERTIFICATE_VERIFY_FAILED": "the coordinator's certificate is not trusted: `hospital doctor` "
    "says why",
    "Connection refused": "nothing answers at the coordinator's address: is it up?",
    "is not approved at this hospital": "a bundle came that is not approved: `oneslice hospital "
    "approve` shows it",
    # All that Flower says of an answer 401, and it ends with status 0; so the last one to look for.
    "SuperNode terminated gracefully": "if nobody stopped it, the coordinator refused its "
    "signature: a clock is off, or its key was revoked; `oneslice hospital doctor` compares the "
    "clocks",
}


def join(store: Path, node: Node, device: str) -> None:
    """Runs worker and SuperNode until this process is told to end.

    Raises:
        SettingsError: there is no invitation, or a program cannot be written.
        ServiceError: they run already.
    """
    node.read_invitation()
    write_programs(node)
    node.logs.mkdir(exist_ok=True)
    supervise(services(store, node, device), node.services_file)


def services(store: Path, node: Node, device: str) -> tuple[Service, Service]:
    """The pair; the SuperNode starts once the worker listens."""
    socket, place = worker_socket(node), str(node.path.absolute())
    environment = {**os.environ, **QUIET}
    own = (str(ONESLICE), "hospital")
    worker = ("worker", "--store", str(store.absolute()), "--node", place, "--device", device)
    return (
        Service(
            WORKER,
            (*own, *worker),
            node.logs / f"{WORKER}.log",
            environment,
            ready=partial(is_listening, socket),
        ),
        Service(
            SUPERNODE,
            (*own, "supernode", "--node", place),
            node.logs / f"{SUPERNODE}.log",
            environment,
        ),
    )


def explain(lines: tuple[str, ...]) -> str:
    """What the end of a service's log means; empty if it is none of the known."""
    text = "\n".join(lines)
    return next((told for sign, told in EXPLAINED.items() if sign in text), "")
