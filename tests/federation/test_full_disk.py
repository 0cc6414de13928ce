"""A disk that is full, at a hospital and at the coordinator: named, and nothing is lost.

Every write of the real programs meets the end of a small disk.
"""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import tomli_w
import torch
from running_programs import ONE_THREAD, fails, make, running, superlink, wait_for
from same_states import same_arrays
from small_disks import fill, mounted_disk

from client.app import Answer, answer_of_worker
from client.approvals import approve
from client.failures import DISK_FULL
from client.local_round import Hospital, answer
from client.node import Node
from client.store.audit import verify_audit
from client.store.rounds import HospitalState, latest_round, load_state
from client.store.store import Store, open_store
from client.supernode import worker_socket
from common.bundle import stage_bundle
from common.errors import ServiceError
from common.plan import FederationPlan
from common.updates import Arrays, RoundRequest, decode_update, encode_request
from server.checkpoints import load_state as load_round
from server.consortium import Consortium
from server.keep_running import keep_federations_running, stop_federation
from server.progress import read_progress
from server.rounds import first_state
from server.run_folder import RunFolder
from simulations.bench_deployed import tiny_scenario
from simulations.loopback import ONESLICE, oneslice
from simulations.progress import no_progress
from simulations.run import prepare

FEDERATION = "loop"
pytestmark = pytest.mark.timeout(300)


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
    with mounted_disk(folder / "disk", 16 * 1024) as disk, ExitStack() as stack:
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
            assert same_arrays(reply.arrays, wanted.arrays)
            assert same_arrays(decode_update(ask(request)).arrays, wanted.arrays)
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
        disk = stack.enter_context(mounted_disk(consortium.runs, 24 * 1024))
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
    assert same_arrays(reached.arrays, wanted.arrays)


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
