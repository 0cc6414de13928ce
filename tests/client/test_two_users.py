"""The documented folders, groups and umasks, as two users: who can do what, and who cannot."""

import grp
import os
import pwd
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from configparser import RawConfigParser
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
import tomli_w

from client.check import Check
from client.node import Node
from client.separation import Account, check_account, check_separation
from client.store.store import create_store
from client.supernode import is_listening, supernode_environment, write_programs
from common.kit import Invitation, write_kit
from common.plan import FederationPlan
from common.updates import RoundRequest, encode_request
from server.certificates import make_authority

DOCS = Path(__file__).parents[2] / "docs"
STARTS_WITHIN_S = 120
WORKER, SUPERNODE = "oneslice", "oneslice-node"
needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")

# Each becomes its user only when all is imported: that user may not be allowed to read this Python.
AS_THE_WORKER = """
import os, sys
from pathlib import Path
import client.cli, client.join_cli, client.join_kit, client.local_round, client.node_group
import client.traffic, client.worker
from client.approvals import approve
from client.learning.device import check_device
from client.store.store import open_store
from common.plan import FederationPlan
from common.settings_file import read_settings
user, group, umask = (int(word, 8) if "o" in word else int(word) for word in sys.argv[1:4])
store, node, folder = (Path(word) for word in sys.argv[4:7])
check_device("auto")
os.umask(umask)
os.setgroups([group])
os.setgid(user)
os.setuid(user)

def command(*words):
    try:
        client.cli.run([str(word) for word in words], "oneslice hospital")
    except SystemExit as ended:
        if ended.code:
            raise

folders = ("--store", store, "--node", node)
command("init", "--store", store, "--name", "north")
command("join-kit", folder / "invitation.json", *folders)
plan = read_settings(FederationPlan, folder / "plan.toml")
approve(open_store(store), node, "ines", bundle=b"code", plans=[plan])
command(*sys.argv[7:])
"""
AS_THE_SUPERNODE = """
import os, sys
from pathlib import Path
from client.app import answer_of_worker
from client.approvals import read_approvals
from client.gate import keep_refused
from client.node import Node
from client.supernode import supernode_command, worker_socket, write_programs
from common.updates import decode_update
user, umask = int(sys.argv[1]), int(sys.argv[2], 8)
store, node = Path(sys.argv[3]), Node(Path(sys.argv[4]))
os.umask(umask)
os.setgroups([])
os.setgid(user)
os.setuid(user)
refused = []

def must_fail(what, does):
    try:
        does()
    except PermissionError:
        refused.append(what)
    else:
        raise SystemExit(f"{what}: could be done")

must_fail("look into the store", lambda: list(store.iterdir()))
must_fail("read the catalog", lambda: (store / "catalog.sqlite").read_bytes())
must_fail("write an approval", lambda: node.approvals_file.open("a"))
(node.refused / "new").touch()
must_fail("put another in its place", lambda: (node.refused / "new").replace(node.approvals_file))
must_fail("remove the approvals", node.approvals_file.unlink)
must_fail("hold the approvals", lambda: (node.path / "approvals.lock").open())
must_fail("hold the worker's place", lambda: (node.path / "worker.sock.lock").open())
must_fail("write the gate", lambda: (node.programs / "flwr-clientapp").open("a"))
must_fail("add a program", lambda: (node.programs / "new").touch())
must_fail("move the programs", lambda: node.programs.rename(node.path / "flwr" / "bin"))
must_fail("listen in the worker's place", worker_socket(node).unlink)
write_programs(node)  # all are as they should be, or it would say so
supernode_command(node, 1)
node.private_key.read_bytes(), node.ca_certificate.read_bytes()
assert len(read_approvals(node.path).bundles) == 1
keep_refused(node.refused, "0" * 64, b"refused")
for folder in (node.flower_home, node.logs):
    (folder / "made").mkdir()
answer = answer_of_worker({
    "hospital": "north", "worker": str(worker_socket(node)), "secret-file": str(node.worker_secret)
})
print(len(refused), decode_update(answer(sys.stdin.buffer.read())).note.outcome)
"""


def free_number() -> int:
    taken = {one.pw_uid for one in pwd.getpwall()} | {one.gr_gid for one in grp.getgrall()}
    return next(number for number in count(54_321) if number not in taken)


class Documented:
    """What docs/deployment says, with its two users as two free numbers and its paths in a folder.

    Attributes:
        numbers: of user and group, by their names.
        root: what stands for `/`.
    """

    def __init__(self, root: Path) -> None:
        first = free_number()
        self.numbers, self.root = {WORKER: first, SUPERNODE: first + 1}, root
        self.text = (DOCS / "deployment.md").read_text(encoding="utf-8")

    def groups_of(self, name: str) -> list[int]:
        """The groups that `useradd` puts the user in, besides its own."""
        made = re.findall(rf"^useradd (.*) {name}$", self.text, re.MULTILINE)
        assert made
        assert all("--user-group" in options for options in made)
        named = [one for options in made for one in re.findall(r"--groups (\S+)", options)]
        return [self.numbers[one] for names in named for one in names.split(",")]

    def make_folders(self) -> None:
        """Runs every documented `install -d`."""
        lines = re.findall(r"^install -d .*$", self.text, re.MULTILINE)
        assert len(lines) == 3
        for line in lines:
            done = [str(self.numbers.get(word, word)) for word in shlex.split(line)]
            done[-1] = self.path(done[-1])
            Path(done[-1]).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(done, check=True)

    def path(self, word: str) -> str:
        """A documented path, in the folder."""
        return f"{self.root}{word}" if word.startswith("/") else word

    def unit(self, service: str) -> tuple[list[str], str]:
        """The arguments of a unit's program, and its umask."""
        parser = RawConfigParser(strict=False)
        parser.read_string((DOCS / "deployment" / f"oneslice-{service}.service").read_text())
        unit = parser["Service"]
        _, role, *words = shlex.split(unit["ExecStart"])
        assert role == "hospital"
        words = [str(self.numbers.get(self.path(word), self.path(word))) for word in words]
        return words, f"0o{unit['UMask']}"


@contextmanager
def worker(documented: Documented, store: Path, node: Node) -> Iterator[None]:
    """The documented worker, after the commands that come before it; all as its user."""
    command, umask = documented.unit("worker")
    (group,) = documented.groups_of(WORKER)
    numbers = [str(documented.numbers[WORKER]), str(group), umask]
    arguments = [*numbers, str(store), str(node.path), str(documented.root), *command]
    log = documented.root / "worker.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", AS_THE_WORKER, *arguments],
            stdout=output,
            stderr=subprocess.STDOUT,
        ) as process,
    ):
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not is_listening(node.worker_socket):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        try:
            yield
        finally:
            process.kill()


def invite(root: Path) -> None:
    now = datetime.now(UTC)
    make_authority("trial", root / "ca.key", root / "ca.crt", now)
    invitation = Invitation(
        consortium="trial",
        hospital="north",
        address="127.0.0.1",
        port=1,
        ca_certificate=(root / "ca.crt").read_text(),
        invitation="0" * 32,
        issued=now,
        expires=now + timedelta(days=14),
    )
    write_kit(invitation, root / "invitation.json")


@needs_root
def test_the_documented_users_can_do_what_they_must_and_no_more(
    make_plan: Callable[..., FederationPlan],
) -> None:
    plan = make_plan()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        documented = Documented(root)
        documented.make_folders()
        invite(root)
        (root / "plan.toml").write_text(
            tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True))
        )
        command, umask = documented.unit("supernode")
        node = Node(Path(command[command.index("--node") + 1]))
        words, _ = documented.unit("worker")
        store = Path(words[words.index("--store") + 1])
        assert documented.groups_of(SUPERNODE) == []
        other = documented.numbers[SUPERNODE]
        with worker(documented, store, node):
            done = subprocess.run(
                [sys.executable, "-c", AS_THE_SUPERNODE, str(other), umask, str(store), node.path],
                input=encode_request(RoundRequest(action="hello", plan=plan, round=0), {}),
                capture_output=True,
                check=False,
            )
            assert done.stdout.decode().split() == ["11", "greeted"], done.stderr.decode()
        assert_gate_runs(node, other)
        refused = node.refused / f"{'0' * 64}.fab"
        as_worker = {
            "user": documented.numbers[WORKER],
            "group": documented.numbers[WORKER],
            "extra_groups": documented.groups_of(WORKER),
        }
        read = subprocess.run(
            ["/bin/cat", str(refused)], capture_output=True, check=True, **as_worker
        )
        assert read.stdout == b"refused", "the worker's user can look at it and approve it"
        subprocess.run(["/bin/rm", "-f", str(refused)], check=True, **as_worker)
        assert not refused.exists()


def assert_gate_runs(node: Node, user: int) -> None:
    """As a user who may start it, and the Python in it as far as this machine lets others do so."""
    as_other = {"user": user, "group": user, "extra_groups": []}
    try:
        subprocess.run([sys.executable, "-c", ""], check=True, **as_other)
        expected = (0, "Run a Flower ClientApp")
    except PermissionError:
        expected = (126, f"{sys.executable}: Permission denied")
    done = subprocess.run(
        [str(node.programs / "flwr-clientapp"), "--help"],
        capture_output=True,
        text=True,
        env=supernode_environment(node),
        cwd="/",
        check=False,
        **as_other,
    )
    assert (done.returncode, expected[1] in done.stdout + done.stderr) == (expected[0], True), done


def test_the_image_makes_the_same_users_and_folders() -> None:
    documented = (DOCS / "deployment.md").read_text(encoding="utf-8")
    image = (DOCS / "deployment" / "Dockerfile").read_text(encoding="utf-8")
    for line in re.findall(r"^install -d .*$", documented, re.MULTILINE):
        assert line in image
    assert "--groups oneslice-node" in image
    assert "--groups oneslice " not in image
    assert "--user oneslice-node" in documented


# What doctor says of it -------------------------------------------------------------------------


@pytest.fixture
def places(tmp_path: Path) -> tuple[Node, Path]:
    """A node's folder and a store, in folders that anybody may enter."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    node = Node(tmp_path / "node")
    write_programs(node)
    node.approvals_file.write_text("{}")
    node.path.chmod(0o750)
    return node, create_store(tmp_path / "outer" / "store", "north").folder


def of(places: tuple[Node, Path], *groups: int) -> Check:
    return check_account(Account("ada", 54_321, frozenset(groups)), *places)


def test_a_group_that_is_not_the_accounts_first_is_looked_at(places: tuple[Node, Path]) -> None:
    store = places[1]
    store.chmod(0o750)
    assert of(places).problem == ""
    assert of(places, 54_321, store.stat().st_gid).problem == "who can enter the store"
    store.parent.chmod(0o700)
    assert of(places, store.stat().st_gid).problem == "", "it does not get as far as the store"
    store.parent.chmod(0o755)
    store.chmod(0o755)
    assert "chmod 700" in of(places).what_to_do


def test_who_could_write_an_approval_or_the_gate_is_told(places: tuple[Node, Path]) -> None:
    node, store = places
    store.chmod(0o700)
    group = node.path.stat().st_gid
    for path in (node.path, node.approvals_file, node.programs):
        assert of(places, group).problem == ""
        before = path.stat().st_mode
        path.chmod(0o770)
        assert of(places, group).problem == f"who can write {path}"
        path.chmod(before)


@needs_root
def test_everybody_whom_the_socket_lets_in_is_looked_at() -> None:
    nobody = pwd.getpwnam("nobody")
    import socket

    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        Path(name).chmod(0o755)
        node, store = Node(Path(name) / "node"), create_store(Path(name) / "store", "north").folder
        node.path.mkdir(mode=0o750)
        listener.bind(str(node.worker_socket))
        node.worker_socket.chmod(0o600)
        assert "are one" in check_separation(node, store).found
        os.chown(node.worker_socket, -1, nobody.pw_gid)
        node.worker_socket.chmod(0o660)
        store.chmod(0o755)
        assert check_separation(node, store).problem == "who can enter the store"
        store.chmod(0o700)
        check = check_separation(node, store)
        assert (check.problem, "nobody" in check.found) == ("", True)
