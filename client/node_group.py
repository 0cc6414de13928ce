"""Lets the users of one group reach what the SuperNode needs, and nothing of the store.

The SuperNode runs as a user of that group: it can ask the worker, run the gate, read the approvals,
the key and the certificate, and write what it unpacks, what it refuses and its log. It cannot write
an approval or the gate, or read the store, for which the node's folder must lie outside of it. The
worker's user is in that group as well: it gives files to it, and reads what was refused.
"""

import grp
import os
from pathlib import Path

from client.store.store import Store
from common.errors import SettingsError

# The group may look into the folder, and make nothing in it.
FOLDER, WRITABLE, READABLE = 0o750, 0o770, 0o640
PROGRAMS = "bin"
WRITABLE_FOLDERS = ("flwr", "refused", "logs")
READABLE_FILES = ("worker.secret", "node.key", "ca.crt", "invitation.json")


def find_group(name: str) -> int:
    """The group's number; `name` may be that number.

    Raises:
        SettingsError: there is no such group on this machine.
    """
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise SettingsError(
            f"there is no group {name!r} on this machine: make it (groupadd), with the SuperNode's "
            "user in it"
        ) from None


def share_with_group(node: Path, store: Store, group: int) -> None:
    """Gives the group its rights in a node's folder, in which the programs are.

    Raises:
        SettingsError: the folder lies in the store, which the group must not enter; or it is
            another user's.
    """
    if node.resolve().is_relative_to(store.folder.resolve()):
        raise SettingsError(
            f"the node's folder {node} lies in the store {store.folder}, which the group must not "
            "enter: choose a folder outside of it with --node"
        )
    try:
        _give(node, group, FOLDER)
        _give(node / PROGRAMS, group, FOLDER)
        for name in WRITABLE_FOLDERS:
            (node / name).mkdir(exist_ok=True)
            _give(node / name, group, WRITABLE)
        for name in READABLE_FILES:
            if (node / name).exists():
                _give(node / name, group, READABLE)
    except PermissionError as error:
        raise SettingsError(
            f"{error.filename} cannot be given to the group: run this as the folder's owner, who "
            "has to be in the group, or as root"
        ) from None


def _give(path: Path, group: int, mode: int) -> None:
    os.chown(path, -1, group)
    path.chmod(mode)
