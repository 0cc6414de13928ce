"""`oneslice hospital worklist` and `annotate`, as commands."""

import contextlib
import json
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import pytest
import tomli_w

from client.local_round import Hospital
from client.store.annotations import latest_annotations
from client.store.drafts import load_draft
from client.store.scans import scans_as_they_came
from client.store.store import Store, open_store
from common.plan import FederationPlan
from common.scans import SliceRef

MakeHospital = Callable[..., Hospital]
MakePlan = Callable[..., FederationPlan]
Paint = Callable[..., None]
COMMAND = [sys.executable, "-m", "oneslice", "hospital"]
LINK = re.compile(r"(?P<who>[\w-]+): (?P<link>(?P<base>http://127\.0\.0\.1:\d+)/enter\?token=\S+)")
KILLS = 3


@pytest.fixture
def store(make_hospital: MakeHospital) -> Store:
    """Three scans for each of two tasks."""
    return make_hospital().store


@pytest.fixture
def plan_file(tmp_path: Path, make_plan: MakePlan) -> Path:
    """The tiny plan as a file."""
    path = tmp_path / "plan.toml"
    path.write_text(tomli_w.dumps(make_plan().model_dump(exclude_none=True)), encoding="utf-8")
    return path


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False
    )


@dataclass
class Server:
    """`annotate` in a process of its own, and the links that it printed."""

    process: subprocess.Popen[str]
    links: dict[str, str] = field(default_factory=dict)
    base: str = ""

    def read_links(self, number: int) -> dict[str, str]:
        """The next links that it prints, by annotator."""
        self.links = {}
        while len(self.links) < number:
            line = self.process.stdout.readline()  # type: ignore[union-attr]
            assert line, "it ended"
            if found := LINK.match(line):
                self.links[found["who"]] = found["link"]
                self.base = found["base"]
        return self.links

    @contextmanager
    def client(self, who: str = "anna") -> Iterator[httpx.Client]:
        """A session; a server on its way up lets it wait."""
        headers = {"X-OneSlice": "1"}
        with httpx.Client(base_url=self.base, headers=headers, timeout=60) as client:
            assert client.get(self.links[who]).status_code == 303
            yield client


@contextmanager
def served(store: Store, plan_file: Path, *more: str) -> Iterator[Server]:
    """The command, killed at the end if it still runs."""
    annotators = ["--annotator", "anna", "--annotator", "ben"]
    command = [*COMMAND, "annotate", "--store", str(store.folder), "--plan", str(plan_file)]
    process = subprocess.Popen(
        [*command, *annotators, *more],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        server = Server(process)
        server.read_links(2)
        try:
            yield server
        finally:
            process.kill()


def test_the_worklist_as_text_and_as_json(
    store: Store, plan_file: Path, make_plan: MakePlan, paint: Paint
) -> None:
    paint(Hospital(store, "cpu"), make_plan(), "second")
    text = run("worklist", "--store", store.folder, "--plan", plan_file)
    assert text.returncode == 0, text.stderr
    first, *rows = text.stdout.splitlines()
    assert first.startswith("3 asked, 0 drafted, 3 painted, 0 accepted, 0 flagged; 3 slices")
    assert len(rows) == 6
    arguments = (
        "--store",
        store.folder,
        "--plan",
        plan_file,
        "--task",
        "first",
        "--format",
        "json",
    )
    found = json.loads(run("worklist", *arguments).stdout)
    assert [row["scan_id"] for row in found["rows"]] == [
        scan.scan_id for scan in scans_as_they_came(store, "first")
    ]
    assert all(0 <= row["index"] < 16 for row in found["rows"])


@pytest.mark.parametrize("command", ["worklist", "annotate"])
def test_a_task_that_the_plan_has_not_is_refused(
    store: Store, plan_file: Path, command: str
) -> None:
    found = run(command, "--store", store.folder, "--plan", plan_file, "--task", "third")
    assert found.returncode == 2
    assert "no task 'third'; its tasks are first, second" in found.stderr


def test_an_odd_annotator_is_refused(store: Store, plan_file: Path) -> None:
    arguments = ("--store", store.folder, "--plan", plan_file, "--annotator", "Dr. Müller")
    found = run("annotate", *arguments)
    assert found.returncode == 2
    assert "annotators ['Dr. Müller']: expected up to 48 letters" in found.stderr


def test_a_port_that_is_taken_is_named(store: Store, plan_file: Path) -> None:
    with served(store, plan_file) as server:
        port = server.base.rpartition(":")[2]
        arguments = ("--store", store.folder, "--plan", plan_file, "--port", port)
        found = run("annotate", *arguments)
        assert found.returncode == 2
        assert f"port {port} on 127.0.0.1 cannot be used" in found.stderr


def test_links_come_for_each_annotator_again_on_enter_and_on_a_signal(
    store: Store, plan_file: Path
) -> None:
    with served(store, plan_file, "--task", "first") as server:
        seen = [server.links]
        with server.client("anna") as anna:
            me = anna.get("/api/me").json()
            assert (me["annotator"], [task["name"] for task in me["tasks"]]) == ("anna", ["first"])
            server.process.stdin.write("\n")  # type: ignore[union-attr]
            server.process.stdin.flush()  # type: ignore[union-attr]
            seen.append(server.read_links(2))
            server.process.send_signal(signal.SIGUSR1)
            seen.append(server.read_links(2))
            assert len({link for links in seen for link in links.values()}) == 6
            assert anna.get("/api/me").status_code == 200, "fresh links end no session"
        with server.client("ben") as ben:
            assert ben.get("/api/me").json()["annotator"] == "ben"
        assert httpx.get(seen[1]["ben"]).status_code == 401, "fresh links replace the unused"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_cleanly(store: Store, plan_file: Path, number: signal.Signals) -> None:
    with served(store, plan_file) as server:
        with server.client():
            pass
        server.process.send_signal(number)
        out, err = server.process.communicate(timeout=120)
        assert server.process.returncode == 0, err
        assert out.endswith("Stopped. What was painted is saved.\n")
        assert err == ""


def test_it_goes_on_when_its_input_is_closed(store: Store, plan_file: Path) -> None:
    with served(store, plan_file) as server:
        server.process.stdin.close()  # type: ignore[union-attr]
        with server.client() as client:
            time.sleep(0.5)
            assert client.get("/api/me").status_code == 200


def _mask(version: int) -> np.ndarray:
    """Another one for every version."""
    return (np.random.default_rng(version).random((24, 24)) < 0.5).astype(np.uint8)


def _paint_until_killed(client: httpx.Client, scan_id: str, version: int) -> int:
    """Saves stroke after stroke; returns the last version that was acknowledged."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            answer = client.put(
                f"/api/scans/{scan_id}/drafts/3",
                params={"version": version, "seconds": 1.0},
                content=_mask(version + 1).tobytes(),
            )
            assert answer.json() == {"version": version + 1}
            version += 1
    return version


def test_a_server_that_is_killed_loses_nothing_that_it_acknowledged(
    store: Store, plan_file: Path
) -> None:
    scan_id = scans_as_they_came(store, "first")[0].scan_id
    ref, moments = SliceRef(scan_id, 2, 3), random.Random(0)
    version = 0
    for _ in range(KILLS):
        with served(store, plan_file) as server, server.client() as client:
            kill = threading.Timer(moments.uniform(0.1, 0.6), server.process.kill)
            kill.start()
            acknowledged = _paint_until_killed(client, scan_id, version)
            kill.join()
        found = load_draft(open_store(store.folder), ref, "anna")
        assert found is not None
        draft, mask = found
        # One more may have been saved whose answer did not get out any more.
        assert draft.version in (acknowledged, acknowledged + 1)
        np.testing.assert_array_equal(mask, _mask(draft.version))
        version = draft.version
    assert version > KILLS
    with served(store, plan_file) as server, server.client() as client:
        body = {"index": 3, "version": version, "seconds": 5.0}
        assert client.post(f"/api/scans/{scan_id}/submit", json=body).status_code == 200
        server.process.kill()
    (painted,) = latest_annotations(open_store(store.folder), scan_id)
    np.testing.assert_array_equal(painted.mask, _mask(version))
