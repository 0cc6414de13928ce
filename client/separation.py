"""Whether code that arrives runs as a user who can neither read the scans nor approve itself."""

import grp
import os
import pwd
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from client.check import Check
from client.node import Node
from client.supernode import worker_socket

WRITE, ENTER = 2, 1


@dataclass(frozen=True)
class Account:
    """A user of this machine and the numbers of all groups that it is in."""

    name: str
    uid: int
    groups: frozenset[int]

    def may(self, what: int, path: Path) -> bool:
        """Whether the mode of `path` itself lets it; `what` is WRITE or ENTER."""
        found = path.stat()
        place = 6 if found.st_uid == self.uid else 3 if found.st_gid in self.groups else 0
        return self.uid == 0 or bool(found.st_mode >> place & what)

    def may_enter(self, folder: Path) -> bool:
        """Whether it gets into a folder, through all those that it lies in."""
        whole = folder.resolve()
        return all(self.may(ENTER, one) for one in (whole, *whole.parents))


def check_separation(node: Node, store: Path) -> Check:
    """Looks at everybody whom the worker's socket lets in, besides its owner.

    Running as one user is no problem of its own, but it is told.
    """
    socket = worker_socket(node)
    if not socket.is_socket() or not socket.stat().st_mode & 0o060:
        return Check("users", "worker and SuperNode are one: approved code could read the store")
    owner, group = socket.stat().st_uid, socket.stat().st_gid
    others = [one for one in accounts_in(group) if one.uid != owner]
    for account in others:
        check = check_account(account, node, store)
        if check.problem:
            return check
    names = ", ".join(one.name for one in others) or "nobody yet"
    return Check("users", f"the SuperNode's may be: {names}, who cannot enter the store")


def accounts_in(group: int) -> Iterator[Account]:
    """All users who are in a group, as their first or as one of their others."""
    members = {name for one in grp.getgrall() if one.gr_gid == group for name in one.gr_mem}
    for one in pwd.getpwall():
        if one.pw_gid == group or one.pw_name in members:
            groups = os.getgrouplist(one.pw_name, one.pw_gid)
            yield Account(one.pw_name, one.pw_uid, frozenset(groups))


def check_account(account: Account, node: Node, store: Path) -> Check:
    """What an account that the SuperNode may run as could do besides."""
    found = f"the SuperNode may be {account.name}"
    if account.may_enter(store):
        to_do = f"chmod 700 {store}, and take {account.name} out of the groups of its owner"
        return Check("users", found, "who can enter the store", to_do)
    # Who may write the folder can put another file in the place of one that it may not write.
    names = (node.path, node.approvals_file, node.programs)
    for path in names:
        if path.exists() and account.may(WRITE, path):
            to_do = f"give {node.path} to the worker's user, with mode 750"
            return Check("users", found, f"who can write {path}", to_do)
    return Check("users", found)
