"""A certificate that has ended, a clock that is a day off, a disk that is full: named, then mended.

The real programs meet the real thing each time: OpenSSL an old certificate, Flower a signature of
another day, every write the end of a small disk.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch

from client.app import Answer, answer_of_worker
from client.approvals import approve
from client.failures import DISK_FULL
from client.join import explain
from client.local_round import Hospital, answer
from client.node import Node, node_of
from client.store.audit import verify_audit
from client.store.rounds import HospitalState, latest_round, load_state
from client.store.store import Store, create_store, open_store
from client.supernode import supernode_command, supernode_environment, worker_socket, write_programs
from common.bundle import stage_bundle
from common.errors import ServiceError
from common.log_reading import last_lines
from common.plan import FederationPlan
from common.quiet import QUIET
from common.supervision import NUM_LAST_LINES, Service
from common.updates import Arrays, RoundRequest, decode_update, encode_request
from server.certificates import SERVER_DAYS
from server.checkpoints import load_state as load_round
from server.consortium import Consortium, ConsortiumSettings, make_consortium
from server.flower_control import node_states
from server.keep_running import keep_federations_running, stop_federation
from server.members_sync import is_superlink_up
from server.progress import read_progress
from server.rounds import first_state
from server.run_folder import RunFolder
from server.up import services_of
from simulations.bench_deployed import tiny_scenario
from simulations.loopback import ONESLICE, free_port, oneslice
from simulations.progress import no_progress
from simulations.run import prepare

DAY_S = 86400.0
FEDERATION = "loop"
# On one core sums are added up in one order, so that weights can be compared bit by bit.
ONE_THREAD = {**os.environ, **QUIET, "OMP_NUM_THREADS": "1"}
pytestmark = pytest.mark.timeout(300)
needs_nginx = pytest.mark.skipif(
    not Path("/usr/sbin/nginx").exists(), reason="needs nginx (Debian: nginx-light)"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short path: the name of a Unix socket holds little more than a hundred letters.
    with tempfile.TemporaryDirectory(prefix="oneslice-") as name:
        yield Path(name)


@contextmanager
def running(command: tuple[str, ...], log: Path, env: dict[str, str]) -> Iterator[subprocess.Popen]:
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(holds: Callable[[], object], log: Path, seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, log.read_text()[-3000:]
        time.sleep(0.1)


def fails(*arguments: str) -> str:
    """What a command that fails says to the person."""
    done = subprocess.run([ONESLICE, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def make(folder: Path, now: datetime, proxy: str = "nginx") -> Consortium:
    """A consortium that was made at a moment."""
    values = {"port": free_port(), "superlink_port": free_port(), "mlflow_port": free_port()}
    settings = ConsortiumSettings.model_validate(
        {"name": "trial", "addresses": ("127.0.0.1",), "proxy": proxy, **values}
    )
    return make_consortium(folder / "c", settings, now)


def service(consortium: Consortium, name: str) -> Service:
    services = services_of(consortium, consortium.read_settings())
    return next(one for one in services if one.name == name)


def join_kit(folder: Path, consortium: Consortium, port: int) -> Node:
    """A hospital that has accepted its invitation; `port`: where it connects."""
    store, invitation = folder / "store", folder / "invitation.json"
    create_store(store, "north")
    where = ("--consortium", str(consortium.path))
    oneslice("coordinator", "invite", "north", "--out", str(invitation), *where)
    asked = json.loads(invitation.read_text())
    invitation.write_text(json.dumps({**asked, "port": port}))
    oneslice("hospital", "join-kit", str(invitation), "--store", str(store))
    return node_of(store, None)


def doctor(folder: Path) -> dict[str, dict[str, str]]:
    """What `hospital doctor` finds, the last of each name: the node is looked at after the store.

    Its exit status is 1: nothing is approved and no worker runs.
    """
    command = [ONESLICE, "hospital", "doctor", "--store", str(folder / "store"), "--quick"]
    done = subprocess.run(
        [*command, "--format", "json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return {one["check"]: one for one in json.loads(done.stdout)}


def contents(node: Node) -> dict[str, str]:
    """The files that the hospital knows its coordinator by."""
    kept = (node.invitation_file, node.ca_certificate, node.private_key, node.request_file)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}


# Certificate ------------------------------------------------------------------------------------


@needs_nginx
def test_a_certificate_that_has_ended_is_named_and_renewed_by_the_coordinator_alone(
    folder: Path,
) -> None:
    ended_yesterday = datetime.now(UTC) - timedelta(days=SERVER_DAYS)
    consortium = make(folder, ended_yesterday)
    where = ("--consortium", str(consortium.path))
    node = join_kit(folder, consortium, consortium.read_settings().port)
    (told,) = fails("coordinator", "up", *where).splitlines()
    assert told.startswith("error: nothing was started: certificate: the server's certificate end")
    assert told.endswith("`oneslice coordinator renew`")
    assert not consortium.services_file.exists()

    nginx = service(consortium, "nginx")
    with running(nginx.command, folder / "nginx.log", dict(nginx.env)):
        wait_for(nginx.ready, folder / "nginx.log")
        check = doctor(folder)["certificate"]
        assert check["problem"] == "its certificate is over"
        assert "`oneslice coordinator renew`" in check["what_to_do"]
        join = (ONESLICE, "hospital", "join", "--store", str(folder / "store"))
        with running(join, folder / "join.log", ONE_THREAD):
            wait_for(lambda: "starting;" in (folder / "join.log").read_text(), folder / "join.log")
        assert "its certificate is over" in (folder / "join.log").read_text()

    before = contents(node)
    assert "no hospital need do anything" in oneslice("coordinator", "renew", *where)
    with running(nginx.command, folder / "nginx.log", dict(nginx.env)):
        wait_for(nginx.ready, folder / "nginx.log")
        checks = doctor(folder)
    assert (checks["certificate"]["problem"], checks["clock"]["problem"]) == ("", "")
    assert contents(node) == before


# Clock ------------------------------------------------------------------------------------------

# Flower takes the time of a signature from its module `date`, and its web server from `time`.
WITH_CLOCK_OFF = """
import datetime, runpy, sys, time
from types import SimpleNamespace
from flwr.supercore import date
off_s, right = float(sys.argv[1]), time.time

class Off(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.datetime.now(tz) + datetime.timedelta(seconds=off_s)

date.datetime = SimpleNamespace(datetime=Off, UTC=datetime.UTC)
time.time = lambda: right() + off_s
# Some commands are `python -I FILE ARGUMENTS`.
sys.argv = sys.argv[4 if sys.argv[3] == "-I" else 2 :]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def clock_off(off_s: float, command: tuple[str, ...]) -> tuple[str, ...]:
    """The command of a Python program, in a process whose clock is ahead by so much."""
    return (sys.executable, "-c", WITH_CLOCK_OFF, str(off_s), *command)


@contextmanager
def superlink(consortium: Consortium, log: Path, off_s: float = 0.0) -> Iterator[None]:
    one = service(consortium, "superlink")
    with running(clock_off(off_s, one.command), log, dict(one.env)):
        wait_for(lambda: is_superlink_up(consortium), log)
        yield


def are_refused_for_their_clock(node: Node, folder: Path) -> None:
    """SuperNodes of tomorrow and yesterday."""
    with ExitStack() as stack:
        refused = {}
        for off_s in (DAY_S, -DAY_S):
            said = folder / f"supernode{off_s:+.0f}.log"
            command = clock_off(off_s, supernode_command(node, free_port()))
            refused[said] = stack.enter_context(running(command, said, supernode_environment(node)))
        for said, process in refused.items():
            process.wait(timeout=60)
            lines = last_lines(said, NUM_LAST_LINES)
            # Flower names no reason, and the exit status is 0.
            assert "SuperNode terminated gracefully" in "".join(lines)
            assert "a clock is off" in explain(tuple(lines))


def test_a_clock_that_is_a_day_off_is_refused_named_and_let_in_when_right(folder: Path) -> None:
    consortium = make(folder, datetime.now(UTC), proxy="own")
    node = join_kit(folder, consortium, consortium.read_settings().superlink_port)
    write_programs(node)
    node.flower_home.mkdir(exist_ok=True)
    log = folder / "superlink.log"
    with superlink(consortium, log):
        where = ("--consortium", str(consortium.path))
        oneslice("coordinator", "register", str(node.request_file), "--yes", *where)
        are_refused_for_their_clock(node, folder)
        assert set(node_states(consortium).values()) == {"registered"}
        assert doctor(folder)["clock"]["problem"] == ""
        said = folder / "supernode.log"
        command = clock_off(0.0, supernode_command(node, free_port()))
        with running(command, said, supernode_environment(node)):
            wait_for(lambda: set(node_states(consortium).values()) == {"online"}, said)
    with superlink(consortium, log, off_s=-DAY_S):
        check = doctor(folder)["clock"]
    seconds, _, rest = check["found"].partition(" ")
    assert float(seconds) == pytest.approx(DAY_S, abs=60)
    assert rest == "s ahead of the coordinator's"
    assert check["problem"].startswith("Flower refuses signatures from more than 5 s ahead")
    assert check["what_to_do"] == "set both machines' clocks by NTP"


# Disk -------------------------------------------------------------------------------------------


@contextmanager
def small_disk(path: Path, megabytes: int) -> Iterator[Path]:
    """A disk of its own; the test is skipped where none may be mounted."""
    path.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "oneslice-test", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("this machine does not let the test mount a small disk")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path, but: int = 0) -> Path:
    """Takes the disk's last byte, but for so many."""
    filler = disk / "filler"
    filler.unlink(missing_ok=True)
    with filler.open("ab", buffering=0) as file:
        for size in (2**16, 1):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:
                continue
    os.truncate(filler, max(0, filler.stat().st_size - but))
    return filler


@contextmanager
def worker(
    store: Store, plan: FederationPlan, log: Path
) -> Iterator[tuple[subprocess.Popen, Answer]]:
    """A hospital's worker as a process of its own, and the way in which a ClientApp asks it."""
    node = Node(log.with_suffix(""))
    node.path.mkdir()
    approve(store, node.path, "it", bundle=None, plans=[plan])
    where = ("--store", str(store.folder), "--node", str(node.path))
    command = (ONESLICE, "hospital", "worker", *where, "--device", "cpu")
    with running(command, log, ONE_THREAD) as process:
        wait_for(worker_socket(node).is_socket, log)
        config = {"hospital": store.hospital, "worker": str(worker_socket(node))}
        yield process, answer_of_worker({**config, "secret-file": str(node.worker_secret)})


def train(plan: FederationPlan, number: int, arrays: Arrays) -> bytes:
    return encode_request(RoundRequest(action="train", plan=plan, round=number), arrays)


def same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        np.array_equal(one[name], other[name]) for name in one
    )


def carried(store: Store, plan: FederationPlan) -> tuple[int, HospitalState]:
    """The newest round, and what is carried to the next one; the log must hold."""
    verify_audit(store)
    newest = latest_round(store, plan.federation)
    return newest, load_state(store, plan.federation, newest)


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_a_hospital_whose_disk_is_full_says_so_and_answers_in_full_with_room(folder: Path) -> None:
    scenario = tiny_scenario(1, 3, channels=4)
    plan = scenario.plan
    (made,) = prepare(scenario, None, folder / "prepared", no_progress).stores.values()
    with small_disk(folder / "disk", 16) as disk, ExitStack() as stack:
        shutil.copytree(made.folder, disk / "store")
        store = open_store(disk / "store")
        process, ask = stack.enter_context(worker(store, plan, folder / "a.log"))
        where, arrays = ("--store", str(store.folder)), first_state(plan).arrays
        for number in (1, 2):
            request = train(plan, number, arrays)
            wanted = decode_update(answer(Hospital(made, "cpu"), request))
            filler, refused = fill(disk), 0
            assert "is full (0 MB free)" in fails("hospital", "status", *where)
            # Ever more room, so that it ends at the catalog, the labels, the reply, the commit.
            for left in (0, *(2**power for power in range(12, 24))):
                fill(disk, but=left)
                reply = decode_update(ask(request))
                assert process.poll() is None
                if reply.note.outcome == "trained":
                    break
                assert (reply.note.reason, reply.arrays) == (DISK_FULL, {})
                refused += 1
            assert refused > 0
            filler.unlink()
            assert same(reply.arrays, wanted.arrays)
            assert same(decode_update(ask(request)).arrays, wanted.arrays)
            arrays = {**arrays, **reply.arrays}
        assert carried(store, plan) == carried(made, plan)


# A coordinator's server, held after each round until it is told to go on.
RUN = """
import sys
from pathlib import Path
from common.plan import FederationPlan
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
plan, out, sites = FederationPlan.model_validate_json(sys.argv[1]), *map(Path, sys.argv[2:])
stores = {path.name: path for path in sites.iterdir()}

def hold(state):
    print(state.round, flush=True)
    sys.stdin.readline()

run_engine("in-process", SimulatedFederation(plan, RunFolder(out), stores), hold)
"""


@contextmanager
def server(plan: FederationPlan, out: Path, sites: Path, log: Path) -> Iterator[subprocess.Popen]:
    command = (sys.executable, "-c", RUN, plan.model_dump_json(), str(out), str(sites))
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            env=ONE_THREAD,
            text=True,
        )
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_coordinator_whose_disk_is_full_says_so_and_resumes_with_room(folder: Path) -> None:
    scenario = tiny_scenario(2, 3, channels=4)
    plan, plan_file = scenario.plan, folder / "plan.toml"
    plan_file.write_text(tomli_w.dumps(plan.model_dump(mode="json", exclude_none=True)))
    prepare(scenario, None, folder / "prepared", no_progress)
    sites = folder / "prepared" / "sites"
    shutil.copytree(sites, folder / "other-sites")
    consortium = make(folder, datetime.now(UTC), proxy="own")
    where, run = ("--consortium", str(consortium.path)), consortium.run_folder(FEDERATION)
    with ExitStack() as stack:
        undisturbed = stack.enter_context(
            server(plan, folder / "other", folder / "other-sites", folder / "other.log")
        )
        disk = stack.enter_context(small_disk(consortium.runs, 24))
        oneslice("coordinator", "start", str(plan_file), "--name", FEDERATION, *where)
        log = folder / "server.log"
        with server(plan, run.path, sites, log) as process:
            assert process.stdout.readline() == "1\n", log.read_text()
            filler = fill(disk)
            process.communicate("\n", timeout=200)
            assert process.returncode != 0
        assert "round 2 could not be saved" in log.read_text()
        assert "free some space" in log.read_text()

        waits_for_room(consortium)
        filler.unlink()
        resumes_by_itself(consortium, folder / "superlink.log")
        with server(plan, run.path, sites, log) as process:
            process.communicate("\n" * 3, timeout=200)
            assert process.returncode == 0, log.read_text()
        undisturbed.communicate("\n" * 4, timeout=200)
        ended_alike(plan, run, RunFolder(folder / "other"))
    for path in sites.iterdir():
        here, there = open_store(path), open_store(folder / "other-sites" / path.name)
        assert carried(here, plan) == carried(there, plan)


def ended_alike(plan: FederationPlan, run: RunFolder, undisturbed: RunFolder) -> None:
    reached, wanted = (load_round(one.checkpoints, plan) for one in (run, undisturbed))
    assert reached is not None
    assert wanted is not None
    assert [one.round for one in reached.history] == [1, 2, 3]
    assert reached.closing is not None
    assert same(reached.arrays, wanted.arrays)


def waits_for_room(consortium: Consortium) -> None:
    run, where = consortium.run_folder(FEDERATION), ("--consortium", str(consortium.path))
    told = oneslice("coordinator", "status", FEDERATION, *where)
    assert "round 1 of 3" in told
    assert f"the disk under {run.path} is full (0.0 MB free" in told
    assert "it goes on by itself then" in told
    with pytest.raises(ServiceError, match=r"disk under .* is full"):
        keep_federations_running(consortium)
    assert max(path.name for path in run.checkpoints.iterdir()) == "round-00001"


def resumes_by_itself(consortium: Consortium, log: Path) -> None:
    """With a real SuperLink, the federation's server comes up after the round that was saved."""
    run = consortium.run_folder(FEDERATION)
    stage_bundle(consortium.staged_app)
    with superlink(consortium, log):
        keep_federations_running(consortium)

        def is_back() -> bool:
            told = read_progress(run.progress_file)
            return told is not None and told.is_alive() and "0 of 2 hospitals" in told.sentence

        wait_for(is_back, log, 120)
        progress = read_progress(run.progress_file)
        assert progress is not None
        assert progress.round == 1
        stop_federation(consortium, run, superlink_is_up=True)
        wait_for(lambda: not progress.is_alive(), log)
