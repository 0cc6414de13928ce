"""The code that travels from the coordinator to the hospitals, and its hash.

Both sides stage it from the OneSlice that they installed, so a hospital knows the hash of the code
that may come before it comes. Deterministic: file times, rights and folders have no part in it.
"""

import hashlib
import importlib.metadata
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from common.errors import SettingsError
from common.quiet import QUIET
from common.version import SOFTWARE
from common.whole_file import write_whole

APP = "oneslice"
PACKAGES = Path(__file__).parent.parent
# An allowlist: without it, a JSON file with patient data in the tree would travel to hospitals.
TRAVELS = ("server/**/*.py", "common/**/*.py", "client/__init__.py", "client/app.py")
LICENSE = "LICENSE"
BUNDLE = "bundle.fab"
BUILD_S = 120


def stage_bundle(folder: Path) -> None:
    """Makes `folder` hold what travels and nothing else.

    Args:
        folder: is replaced if it exists; its name must be "oneslice", as Flower wants it.
    """
    if folder.name != APP:
        raise SettingsError(f"a staged bundle's folder is called {APP!r}, got {folder.name!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".staging-", dir=folder.parent) as scratch:
        fresh = Path(scratch) / APP
        for path in _files_that_travel():
            target = fresh / path.relative_to(PACKAGES)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        (fresh / LICENSE).write_text(_license(), encoding="utf-8")
        (fresh / "pyproject.toml").write_text(tomli_w.dumps(_app_settings()), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(scratch) / "before")
        fresh.rename(folder)


def build_bundle(folder: Path, home: Path) -> Path:
    """Flower's bundle of a staged folder, as HOME/bundle.fab.

    Args:
        folder: what `stage_bundle` made.
        home: a folder whose `flwr` is Flower's own home.

    Raises:
        SettingsError: Flower does not take the folder, or left files of it out.
    """
    flower_home = home / "flwr"
    flower_home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=home) as scratch:
        program = str(Path(sys.executable).parent / "flwr")
        command = [program, "build", "--app", str(folder.resolve())]
        env = {**os.environ, **QUIET, "FLWR_HOME": str(flower_home.resolve())}
        done = subprocess.run(
            command,
            cwd=scratch,
            env=env,
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        built = list(Path(scratch).glob("*.fab"))
        if done.returncode != 0 or len(built) != 1:
            told = (done.stdout + done.stderr).strip()[-500:]
            raise SettingsError(f"expected `flwr build` to bundle {folder}, it says: {told}")
        data = built[0].read_bytes()
    _check_nothing_is_missing(folder, data)
    write_whole(home / BUNDLE, data)
    return home / BUNDLE


def bundle_hash(data: bytes) -> str:
    """The bundle's hash, the one that Flower knows it by."""
    return hashlib.sha256(data).hexdigest()


def bundle_files(data: bytes) -> dict[str, bytes]:
    """The bundle's files by their path, without Flower's own list of them.

    Raises:
        SettingsError: it is no bundle.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if not name.startswith(".info/")]
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise SettingsError(f"expected Flower's bundle, a ZIP file, got {error}") from None


def _files_that_travel() -> Iterator[Path]:
    for pattern in TRAVELS:
        yield from sorted(path for path in PACKAGES.glob(pattern) if path.is_file())


def _license() -> str:
    """The license as it was installed: in a wheel it does not lie beside the packages."""
    text = importlib.metadata.distribution(APP).read_text(f"licenses/{LICENSE}")
    if text is None:
        raise SettingsError(f"this installation of {APP} has no license: install it again with pip")
    return text


def _app_settings() -> dict[str, object]:
    """The bundle's pyproject.toml. `flwr run` can change only what [tool.flwr.app.config] names."""
    components = {"serverapp": "server.app:app", "clientapp": "client.app:app"}
    run_config = {"plan": "", "out": "", "tracking": ""}
    app = {
        "publisher": APP,
        "fab-include": [*TRAVELS, f"/{LICENSE}"],
        "components": components,
        "config": run_config,
    }
    project = {
        "name": APP,
        "version": SOFTWARE,
        "description": "One annotated slice per scan, at every hospital.",
        "license": "Apache-2.0",
        # Empty on purpose: nothing is installed on arrival, each side has its own installation.
        "dependencies": [],
    }
    return {"project": project, "tool": {"flwr": {"app": app}}}


def _check_nothing_is_missing(folder: Path, data: bytes) -> None:
    """Flower leaves out what its own rules exclude (names such as test_*.py) and says nothing."""
    staged = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    missing = sorted(staged - set(bundle_files(data)))
    if missing:
        raise SettingsError(f"expected all staged files in the bundle, Flower left out {missing}")
