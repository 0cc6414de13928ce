"""The gate in front of Flower's own steps, with bundles that Flower built."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import flwr.supernode.runtime.run_clientapp as flower_itself
import pytest

from client.approvals import approve, withdraw
from client.gate import (
    MOST_REFUSED,
    MOST_REFUSED_BYTES,
    TESTED_FLOWER,
    UNPACKED,
    BundleRefusedError,
    Gate,
    approved_hashes,
    check_flower,
    keep_refused,
)
from client.store.store import create_store
from common.bundle import bundle_hash

Build = Callable[..., bytes]
ROOT = Path(__file__).parents[2]
GATE = ROOT / "client" / "gate.py"
SETTINGS = """
[project]
name = "{name}"
version = "1.0.0"
dependencies = []
[tool.flwr.app]
publisher = "somebody"
fab-include = ["client/*.py", "/LICENSE"]
[tool.flwr.app.components]
serverapp = "client.app:app"
clientapp = "client.app:app"
"""
APP = """
from pathlib import Path
Path({marker!r}).touch()
from flwr.clientapp import ClientApp
app = ClientApp()
"""


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Flower's bundle of an app that leaves a marker when it is loaded."""

    def do(marker: Path, name: str = "arrives") -> bytes:
        folder = tmp_path_factory.mktemp("app") / name
        (folder / "client").mkdir(parents=True)
        (folder / "pyproject.toml").write_text(SETTINGS.format(name=name))
        (folder / "LICENSE").write_text("none")
        (folder / "client" / "__init__.py").touch()
        (folder / "client" / "app.py").write_text(APP.format(marker=str(marker)))
        flwr = str(Path(sys.executable).parent / "flwr")
        env = {**os.environ, "FLWR_HOME": str(folder.parent / "home")}
        subprocess.run(
            [flwr, "build", "--app", str(folder)], cwd=folder.parent, env=env, check=True
        )
        (bundle,) = folder.parent.glob("*.fab")
        return bundle.read_bytes()

    return do


class Arrival:
    """Flower's steps behind a gate, for one bundle under the names that the coordinator gives."""

    def __init__(self, node: Path, bundle: bytes, *, named: str = "", version: str = "1.0.0"):
        self.bundle, self.named = bundle, named or bundle_hash(bundle)
        self.run = SimpleNamespace(fab_id="somebody/arrives", fab_version=version)
        # A copy of Flower's module, so that this process keeps its own.
        self.flower = ModuleType("flower")
        vars(self.flower).update(vars(flower_itself))
        task = (None, None, self.run, SimpleNamespace(content=bundle, hash_str=self.named))
        self.flower.pull_task_input = lambda _: task  # type: ignore[attr-defined]
        self.gate = Gate(node, self.flower)

    def load(self) -> object:
        """What Flower's `run_clientapp` does, step by step."""
        _, _, run, fab = self.flower.pull_task_input(None)
        self.flower.install_from_fab(fab.content, skip_prompt=True)
        loader = self.flower.get_load_client_app_fn(
            default_app_ref="", app_path=None, multi_app=True
        )
        return loader(run.fab_id, run.fab_version, fab.hash_str)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A node's folder; Flower's home is in it, as the gate sets it."""
    folder = tmp_path / "node"
    folder.mkdir()
    monkeypatch.setenv("FLWR_HOME", str(folder / "flwr" / "unpacked" / "one"))
    return folder


def unpacked(node: Path) -> list[Path]:
    return [path for path in (node / "flwr").rglob("*") if path.is_file()]


def test_a_bundle_runs_only_once_it_is_approved(node: Path, tmp_path: Path, build: Build) -> None:
    marker = tmp_path / "marker"
    bundle = build(marker)
    with pytest.raises(BundleRefusedError, match="hospital approve") as refused:
        Arrival(node, bundle).load()
    assert bundle_hash(bundle) in str(refused.value)
    assert str(tmp_path) not in str(refused.value), "the text goes to the coordinator"
    assert unpacked(node) == []
    assert not marker.exists()
    assert (node / "refused" / f"{bundle_hash(bundle)}.fab").read_bytes() == bundle

    store = create_store(tmp_path / "store", "north")
    approve(store, node, "ines", bundle=bundle, plans=[])
    # Not this process's own `client`, which would be taken for the bundle's.
    env = {**os.environ, "FLWR_HOME": str(node / "flwr" / "one")}
    code = LOAD_IN_A_PROCESS.format(gate=str(GATE), node=str(node))
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], input=bundle, env=env, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.strip()[-9:]) == (0, b"ClientApp"), done.stderr.decode()
    assert marker.exists()

    withdraw(store, node, bundle_hash(bundle), "ines")
    marker.unlink()
    with pytest.raises(BundleRefusedError, match="is not approved"):
        Arrival(node, bundle).load()
    assert not marker.exists()


LOAD_IN_A_PROCESS = """
import hashlib, importlib.util, sys
from pathlib import Path
from types import SimpleNamespace
import flwr.supernode.runtime.run_clientapp as flower
spec = importlib.util.spec_from_file_location("gate", {gate!r})
gate = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gate)
bundle = sys.stdin.buffer.read()
fab = SimpleNamespace(content=bundle, hash_str=hashlib.sha256(bundle).hexdigest())
run = SimpleNamespace(fab_id="somebody/arrives", fab_version="1.0.0")
flower.pull_task_input = lambda _: (None, None, run, fab)
gate.Gate(Path({node!r}), flower)
flower.pull_task_input(None)
flower.install_from_fab(bundle, skip_prompt=True)
loader = flower.get_load_client_app_fn(default_app_ref="", app_path=None, multi_app=True)
app = loader(run.fab_id, run.fab_version, fab.hash_str)
assert not [name for name in sys.modules if name.split(".")[0] in ("common", "torch", "monai")]
print(type(app).__name__)
"""


def test_one_changed_byte_is_another_bundle(node: Path, tmp_path: Path, build: Build) -> None:
    bundle = build(tmp_path / "marker")
    approve(create_store(tmp_path / "store", "north"), node, "ines", bundle=bundle, plans=[])
    changed = bundle + b"\0"
    with pytest.raises(BundleRefusedError, match=bundle_hash(changed)):
        Arrival(node, changed).load()
    assert unpacked(node) == []


def test_what_is_loaded_is_what_was_approved(node: Path, tmp_path: Path, build: Build) -> None:
    store = create_store(tmp_path / "store", "north")
    first, second = build(tmp_path / "one"), build(tmp_path / "two")
    for bundle in (first, second):
        approve(store, node, "ines", bundle=bundle, plans=[])
    # Under another one's hash Flower would load that one, wherever it was left from.
    with pytest.raises(BundleRefusedError, match="came under the name of another one"):
        Arrival(node, first, named=bundle_hash(second)).load()
    with pytest.raises(BundleRefusedError, match="not the app that the run names"):
        Arrival(node, first, version="../../../elsewhere/1.0.0").load()
    arrival = Arrival(node, first)
    with pytest.raises(BundleRefusedError, match="did not see the bundle"):
        arrival.flower.get_load_client_app_fn("", None, True)
    assert not (tmp_path / "one").exists()


def test_a_disk_without_room_is_told_without_a_path(
    node: Path, tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build(tmp_path / "marker")
    approve(create_store(tmp_path / "store", "north"), node, "ines", bundle=bundle, plans=[])
    # A home that is a file: nothing can be made below it, whoever tries.
    (tmp_path / "file").touch()
    monkeypatch.setenv("FLWR_HOME", str(tmp_path / "file"))
    with pytest.raises(BundleRefusedError, match=r"^this hospital could not unpack the bundle$"):
        Arrival(node, bundle).load()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"bundles": 3}', '{"bundles": [{}]}', "[" * 100_000, "\ud800"]
)
def test_approvals_that_cannot_be_read_approve_nothing(node: Path, text: str) -> None:
    (node / "approvals.json").write_text(text, errors="surrogatepass")
    assert approved_hashes(node / "approvals.json") == frozenset()
    assert approved_hashes(node / "nowhere.json") == frozenset()


def test_refused_bundles_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    folder = tmp_path / "refused"
    for number in range(MOST_REFUSED + 2):
        keep_refused(folder, f"{number}", b"x")
        os.utime(folder / f"{number}.fab", ns=(number, number))
    assert sorted(path.stem for path in folder.iterdir()) == ["2", "3", "4", "5", "6"]
    keep_refused(folder, "large", bytes(MOST_REFUSED_BYTES - 1))
    assert sorted(path.stem for path in folder.iterdir()) == ["6", "large"]
    keep_refused(folder, "too-large", bytes(MOST_REFUSED_BYTES + 1))
    assert sorted(path.stem for path in folder.iterdir()) == ["6", "large"]


# Another Flower ---------------------------------------------------------------------------------


def flower_without(*names: str) -> ModuleType:
    """A Flower whose `run_clientapp` calls everything but these."""
    source = "\n".join(
        f"    {name}()"
        for name in (
            "pull_task_input",
            "install_from_fab",
            "get_project_dir",
            "get_load_client_app_fn",
        )
        if name not in names
    )
    module = ModuleType("flower")
    vars(module).update({name: name for name in vars(flower_itself) if name not in names})
    exec(f"def run_clientapp():\n{source}", vars(module))
    return module


def command_of(flower: ModuleType) -> ModuleType:
    """The module of the program that calls it."""
    command = ModuleType("command")
    vars(command).update(run_clientapp=vars(flower)["run_clientapp"], flwr_clientapp=print)
    return command


@pytest.mark.parametrize(
    "name", ["pull_task_input", "install_from_fab", "get_project_dir", "get_load_client_app_fn"]
)
def test_a_flower_that_does_not_fit_is_refused_with_both_versions(name: str) -> None:
    flower = flower_without(name)
    command = command_of(flower)
    with pytest.raises(SystemExit, match=rf"Flower 1\.\d+.*\(tested: {TESTED_FLOWER}\).*{name}"):
        check_flower(flower, command)


def test_a_program_that_runs_another_function_is_refused() -> None:
    flower = flower_without()
    command = command_of(flower)
    check_flower(flower, command)
    vars(command)["run_clientapp"] = print
    with pytest.raises(SystemExit, match="run_clientapp where the gate has to stand"):
        check_flower(flower, command)


def test_a_flower_without_these_modules_is_refused(tmp_path: Path) -> None:
    # A Flower of a later version that has moved them, found before the installed one.
    (tmp_path / "flwr").mkdir()
    (tmp_path / "flwr" / "__init__.py").touch()
    code = f"import sys, runpy; sys.path.insert(0, {str(tmp_path)!r}); " \
           f"sys.argv = ['gate', {str(tmp_path)!r}]; runpy.run_path({str(GATE)!r}, run_name='__main__')"  # fmt: skip # noqa: E501
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, check=False)
    assert done.returncode != 0
    assert b"Nothing was run" in done.stderr


def test_the_tested_flower_is_the_pinned_one() -> None:
    assert f"flwr=={TESTED_FLOWER}" in (ROOT / "constraints.txt").read_text().splitlines()


def test_the_gate_is_flower_s_own_program_for_the_rest(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-I", str(GATE), str(tmp_path), "--help"],
        capture_output=True,
        check=False,
        text=True,
    )
    assert (done.returncode, "Run a Flower ClientApp" in done.stdout) == (0, True), done.stderr
    assert list((tmp_path / UNPACKED).iterdir()) == []
