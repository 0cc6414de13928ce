"""The hospital's SuperNode: how Flower's program is started, and with nothing but the gate to run.

It needs the node's folder and no store, so that it can run as another user than the worker (see
`client/worker.py` and `client/node_group.py`): that user then holds the connection to the outside
and runs the code that arrived, and cannot read a scan.

Flower finds the programs that it starts by their name in PATH, and which one it starts for a
message is the coordinator's choice. So PATH is one folder of ours: the gate in the place of the
program for hospitals, the program that starts it, and in the place of all others one that refuses.
"""

import hashlib
import os
import shlex
import shutil
import socket
import sys
import tempfile
from pathlib import Path

from client.gate import UNPACKED
from client.node import Node
from common.errors import SettingsError
from common.quiet import FRUGAL, QUIET
from common.tied_program import EXECUTABLE, tied_script
from common.whole_file import write_whole

GATE_FILE = Path(__file__).parent / "gate.py"
PROGRAM_FILE = Path(__file__).parent / "supernode_program.py"
FLOWER_PROGRAMS = Path(sys.executable).parent
SUPEREXEC, CLIENTAPP = "flower-superexec", "flwr-clientapp"
NEVER_HERE = (
    "flwr-agentapp",
    "flwr-connector",
    "flwr-model",
    "flwr-serverapp",
    "flwr-simulation",
)
# What the SuperNode gets to know of the environment: nothing that could change which code it loads.
PASSED_ON = (
    "HOME",
    "HTTPS_PROXY",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "NO_PROXY",
    "TMPDIR",
    "TZ",
    "https_proxy",
    "no_proxy",
)
OURS = "ONESLICE_"
# Flower looks once a second whether a message came; every hospital's answer is waited for.
LOOKS_OFTEN = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
# A socket's path holds 107 bytes on Linux and 103 on macOS; both ends write it the same way.
LONGEST_SOCKET_PATH = 100
ANOTHER_WORKER = "another worker answers"


def worker_socket(node: Node) -> Path:
    """Where worker and SuperNode meet: in the node's folder, or in a short one if that is too long.

    Both sides come to the same path from the node's folder alone.
    """
    usual = node.worker_socket.absolute()
    if len(os.fsencode(usual)) <= LONGEST_SOCKET_PATH:
        return usual
    digest = hashlib.sha256(os.fsencode(node.path.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"oneslice-{digest}" / node.worker_socket.name


def shared_socket(node: Node) -> Path:
    """Where a worker and a SuperNode of another user meet: in the node's folder and nowhere else.

    Raises:
        SettingsError: its path is too long. Services may each have a /tmp of their own.
    """
    usual = node.worker_socket.absolute()
    length = len(os.fsencode(usual))
    if length > LONGEST_SOCKET_PATH:
        raise SettingsError(
            f"the socket {usual} would have a path of {length} bytes, {LONGEST_SOCKET_PATH} are "
            "possible: choose a node's folder with a shorter path (--node)"
        )
    return usual


def is_listening(path: Path) -> bool:
    """Whether somebody answers there; a worker that was killed leaves its socket behind."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(1.0)
        try:
            caller.connect(os.fsencode(path))
        except OSError:
            return False
    return True


def make_socket_folder(path: Path) -> None:
    """Makes the folder of a socket that lies outside of the node's, for its owner alone.

    Raises:
        SettingsError: somebody else made a folder of that name before.
    """
    folder = path.parent
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise SettingsError(
            f"{folder}, where the worker is to listen, belongs to another user: remove it, or "
            "choose a node's folder with a shorter path (--node)"
        )
    folder.chmod(0o700)


def write_programs(node: Node) -> None:
    """Makes `bin` hold the gate and nothing that could run code past it.

    What is there already is left alone: the SuperNode's own user need not be able to write here.

    Raises:
        SettingsError: a program is missing or another one, and this user may not write it.
    """
    gate = _script(sys.executable, "-I", str(GATE_FILE.resolve()), str(node.path.resolve()))
    scripts = {CLIENTAPP: gate, SUPEREXEC: tied_script(FLOWER_PROGRAMS / SUPEREXEC)}
    for name in NEVER_HERE:
        scripts[name] = f"#!/bin/sh\necho '{name} is not run at a hospital' >&2\nexit 1\n"
    for name, text in scripts.items():
        path = node.programs / name
        try:
            if path.is_file() and path.read_text() == text and os.access(path, os.X_OK):
                continue
            write_whole(path, text, EXECUTABLE)
        except PermissionError:
            raise SettingsError(
                f"{path} has to be written anew, which this user may not: run "
                "`oneslice hospital worker` once as the folder's owner"
            ) from None


def _script(*command: str) -> str:
    return f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n'


def supernode_command(node: Node, runtime_port: int) -> tuple[str, ...]:
    """Flower's program and its arguments.

    Args:
        node: joined; its invitation names the coordinator's address.
        runtime_port: on loopback, for the programs that the SuperNode starts.

    Raises:
        SettingsError: there is no invitation, or a path that Flower cannot be told.
    """
    invitation = node.read_invitation()
    config = {
        "hospital": invitation.hospital,
        "worker": str(worker_socket(node)),
        "secret-file": str(node.worker_secret.absolute()),
    }
    return (
        *(sys.executable, "-I", str(PROGRAM_FILE.resolve())),
        *("--superlink", _host_and_port(invitation.address, invitation.port)),
        *("--root-certificates", str(node.ca_certificate.absolute())),
        *("--auth-supernode-private-key", str(node.private_key.absolute())),
        *("--host", "127.0.0.1", "--port", str(runtime_port)),
        *("--node-config", " ".join(f"{key}={_quoted(value)}" for key, value in config.items())),
    )


def supernode_environment(node: Node) -> dict[str, str]:
    """All that the SuperNode and what it starts get to know of the environment."""
    passed_on = {
        name: value
        for name, value in os.environ.items()
        if name in PASSED_ON or name.startswith(OURS)
    }
    home = str(node.flower_home.absolute())
    folders = {"PATH": str(node.programs.absolute()), "FLWR_HOME": home}
    return {**passed_on, **QUIET, **FRUGAL, **LOOKS_OFTEN, **folders}


def run_supernode(node: Node) -> None:
    """Becomes the SuperNode; returns only by an error.

    Raises:
        SettingsError: something of the node is missing or another user's.
    """
    write_programs(node)
    try:
        # What gates that were killed had unpacked.
        shutil.rmtree(node.path / UNPACKED, ignore_errors=True)
        node.flower_home.mkdir(exist_ok=True)
        node.private_key.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{error.filename}: {error.strerror}; `oneslice hospital join-kit` makes the key, and "
            "the worker's --group lets another user in"
        ) from None
    command = supernode_command(node, free_port())
    os.execve(command[0], command, supernode_environment(node))


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _host_and_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(value: str) -> str:
    # Flower takes "..." or '...' as TOML does, and knows no escapes around the quotes themselves.
    if "'" not in value:
        return f"'{value}'"
    if '"' in value or "\\" in value:
        raise SettingsError(f"the path {value} holds both kinds of quotes: choose another folder")
    return f'"{value}"'
