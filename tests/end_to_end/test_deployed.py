"""From nothing to a finished report on real scans, by the commands of docs/deployment.md alone.

One coordinator with TLS, signed requests and proxy, three hospitals with a worker and a SuperNode
each; the weights must be those of the in-process engine.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from client.store.scans import list_scans
from client.store.store import open_store
from common.plan import FederationPlan
from common.quiet import QUIET
from server.checkpoints import load_state
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
from simulations.loopback import free_port
from simulations.scenario import read_scenario

ROOT = Path(__file__).parent.parent.parent
HOSPITALS = ("hospital-a", "hospital-b", "hospital-c")
SCANS_EACH, ROUNDS = 5, 2
BIN = Path(sys.executable).parent
ENVIRONMENT = {**os.environ, **QUIET, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
pytestmark = [pytest.mark.real_scans, pytest.mark.timeout(900)]


def documented_commands() -> list[str]:
    """The commands of the page's walk through, in order."""
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = page.split("## The whole thing, step by step")[1].split("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", section, re.M | re.S)
    return [line for line in "".join(blocks).splitlines() if line.strip()]


@pytest.fixture
def folder() -> Iterator[Path]:
    # A short path: the name of a Unix socket holds little more than a hundred letters.
    with tempfile.TemporaryDirectory(prefix="oneslice-") as path:
        yield Path(path)


def small_plan() -> FederationPlan:
    """The first stage of the hippocampus stream, shorter; slices known before the first round."""
    values = read_scenario("hippocampus_stream").plan.model_dump(mode="json", exclude_none=True)
    values["name"] = "hearts"
    values["tasks"] = [{**values["tasks"][0], "rounds": ROUNDS}]
    values["annotation"]["slice_choice"] = "cohort"
    values["training"].update(steps_per_round=3, student_steps_per_round=2)
    values["limits"].update(hospitals=len(HOSPITALS), quorum=len(HOSPITALS), patience_s=600)
    return FederationPlan.model_validate(values)


def deal(source: Path, folder: Path, place: int) -> Path:
    """A hospital's own folder of scans, in the layout of the Decathlon."""
    data = folder / f"data-{place}"
    told = json.loads((source / "dataset.json").read_text())
    told["training"] = told["training"][place * SCANS_EACH : (place + 1) * SCANS_EACH]
    told["numTraining"] = SCANS_EACH
    for case in told["training"]:
        for path in case.values():
            (data / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source / path, data / path)
    (data / "dataset.json").write_text(json.dumps(told))
    return data


def run(command: str, cwd: Path) -> str:
    done = subprocess.run(
        shlex.split(command),
        cwd=cwd, env=ENVIRONMENT, input="y\n", capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def kept(commands: dict[Path, str]) -> Iterator[None]:
    """Commands that stay in the foreground of their terminals."""
    started = []
    try:
        for cwd, command in commands.items():
            with (cwd / "terminal.log").open("wb") as log:
                started.append(
                    subprocess.Popen(
                        shlex.split(command),
                        cwd=cwd,
                        env=ENVIRONMENT,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        yield
    finally:
        for process in started:
            process.send_signal(signal.SIGTERM)
        for process in started:
            process.wait(timeout=120)


def wait_for(holds: Callable[[], bool], seconds: float, shown: Callable[[], str]) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, shown()
        time.sleep(1)


def paint(command: str, site: Path, data: Path) -> None:
    """What the worklist asks for, from the scans' own labels."""
    asked = json.loads(
        run("oneslice hospital worklist --store store --plan plan.toml --format json", site)
    )
    case_of = {scan.scan_id: scan.case for scan in list_scans(open_store(site / "store"))}
    for row in asked["rows"]:
        case = case_of[row["scan_id"]]
        words = {"MASK": str(data / "labelsTr" / f"{case}.nii.gz"), "CASE": case}
        words["NUMBER"] = str(row["index"])
        run(" ".join(words.get(word, word) for word in command.split()), site)


@dataclass(frozen=True)
class Walk:
    """Where the people of the page sit, and what they have."""

    folder: Path
    plan: FederationPlan
    port: int
    data: dict[str, Path]

    @property
    def center(self) -> Path:
        return self.folder / "coordinator"

    @property
    def sites(self) -> dict[str, Path]:
        return {name: self.folder / name for name in HOSPITALS}

    def obey(self, command: str) -> None:
        """Types one line of the page, at every hospital if it is a hospital's."""
        if command.startswith("oneslice coordinator"):
            self._at_the_coordinator(command.replace("8443", str(self.port)))
            return
        for name, site in self.sites.items():
            if "import-mask" in command:
                paint(command, site, self.data[name])
            elif "annotate" not in command:  # the page has tests of its own, in a browser
                words = {"DATA": str(self.data[name]), "TASK": self.plan.tasks[0].name}
                replaced = " ".join(words.get(word, word) for word in command.split())
                run(replaced.replace("hospital-a", name), site)

    def _at_the_coordinator(self, command: str) -> None:
        """Once, or once for every hospital that the command is about; files go by hand."""
        if "hospital-a" not in command and "request.json" not in command:
            run(command, self.center)
            return
        for name, site in self.sites.items():
            if "request.json" in command:
                shutil.copy(site / "store" / "federation" / "request.json", self.center)
            run(command.replace("hospital-a", name), self.center)
            if "invite" in command:
                shutil.copy(self.center / f"{name}.invitation.json", site)

    def copy_stores(self) -> dict[str, Path]:
        """The stores as they are before anybody trains, for the in-process engine."""
        copies = {name: self.folder / "in-process" / name for name in HOSPITALS}
        for name, site in self.sites.items():
            left_out = shutil.ignore_patterns("federation")
            shutil.copytree(site / "store", copies[name], ignore=left_out)
        return copies


@pytest.fixture
def walk(folder: Path, real_scans: Path) -> Walk:
    source = real_scans / "hippocampus"
    data = {name: deal(source, folder, place) for place, name in enumerate(HOSPITALS)}
    walk = Walk(folder, small_plan(), free_port(), data)
    text = tomli_w.dumps(walk.plan.model_dump(mode="json", exclude_none=True))
    for place in (walk.center, *walk.sites.values()):
        place.mkdir()
        (place / "plan.toml").write_text(text, encoding="utf-8")
    return walk


def test_from_nothing_to_a_finished_report(walk: Walk) -> None:
    commands = documented_commands()
    up, join, start = (
        next(place for place, line in enumerate(commands) if f" {word} " in line)
        for word in ("up", "join", "start")
    )
    for command in commands[:up]:
        walk.obey(command)
    with kept({walk.center: commands[up]}):
        for command in commands[up + 1 : join]:
            walk.obey(command)
        copies = walk.copy_stores()
        with kept(dict.fromkeys(walk.sites.values(), commands[join])):
            walk.obey(commands[start])
            status = "oneslice coordinator status first --consortium consortium"
            wait_for(
                lambda: json.loads(run(f"{status} --format json", walk.center))["finished"],
                600,
                lambda: run(status, walk.center),
            )
            for command in commands[start + 1 :]:
                walk.obey(command)
    folder = RunFolder(walk.center / "consortium" / "runs" / "first")
    report = json.loads(folder.report_json.read_text())
    assert report["communication"]["rounds"] == ROUNDS
    assert {site["name"] for site in report["sites"]} == set(HOSPITALS)

    reached = load_state(folder.checkpoints, walk.plan)
    reference = SimulatedFederation(walk.plan, RunFolder(walk.folder / "reference"), copies)
    expected = run_engine("in-process", reference, lambda _: None)
    assert reached is not None
    # The same code on the same numbers: only how threads divide a sum may differ, in its last bits.
    for name, array in expected.arrays.items():
        assert np.allclose(reached.arrays[name], array, rtol=0, atol=1e-4), name
