"""What travels to hospitals: an allowlist of code, the same to the bit from every installation."""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from common.bundle import build_bundle, bundle_files, bundle_hash, stage_bundle
from common.errors import SettingsError
from common.quiet import QUIET

ROOT = Path(__file__).parent.parent.parent
STAGE = (
    "import sys; from pathlib import Path; from common.bundle import build_bundle, stage_bundle; "
    "home = Path(sys.argv[1]); app = home / 'bundle' / 'oneslice'; stage_bundle(app); "
    "build_bundle(app, home); import common.bundle; print(common.bundle.__file__)"
)


def _staged(home: Path) -> Path:
    app = home / "bundle" / "oneslice"
    stage_bundle(app)
    return app


def _run(command: list[str], env: Mapping[str, str], umask: int = 0o022) -> str:
    done = subprocess.run(
        command,
        env={**env, **QUIET, "PIP_NO_INDEX": "1"},
        umask=umask,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_bundle_holds_the_allowed_files_and_nothing_else(tmp_path: Path) -> None:
    app = _staged(tmp_path)
    files = bundle_files(build_bundle(app, tmp_path).read_bytes())
    code = {name for name in files if name.endswith(".py")}
    assert set(files) - code == {"pyproject.toml", "LICENSE"}
    assert {name for name in code if name.startswith("client")} == {
        "client/__init__.py",
        "client/app.py",
    }
    expected = [*(ROOT / "server").rglob("*.py"), *(ROOT / "common").rglob("*.py")]
    assert {name for name in code if not name.startswith("client")} == {
        str(path.relative_to(ROOT)) for path in expected
    }
    for name in code | {"LICENSE"}:
        assert files[name] == (ROOT / name).read_bytes(), name


def test_what_lies_in_the_staged_folder_does_not_travel(tmp_path: Path) -> None:
    app = _staged(tmp_path)
    before = build_bundle(app, tmp_path).read_bytes()
    patients = ("patients.json", "client/patients.json", "client/local_round.py", "notes.md")
    for name in patients:
        (app / name).write_text('{"name": "Jane Doe"}')
    with pytest.raises(SettingsError, match=r"Flower left out \[.*'client/patients\.json'"):
        build_bundle(app, tmp_path)
    assert _staged(tmp_path) == app
    assert not any((app / name).exists() for name in patients), "staging begins anew"
    assert build_bundle(app, tmp_path).read_bytes() == before


def test_a_changed_line_changes_the_hash(tmp_path: Path) -> None:
    app = _staged(tmp_path)
    before = bundle_hash(build_bundle(app, tmp_path).read_bytes())
    with (app / "server" / "app.py").open("a") as file:
        file.write("\n")
    assert bundle_hash(build_bundle(app, tmp_path).read_bytes()) != before


def test_a_wheel_and_the_repository_give_the_same_bundle(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "-q"]
    wheels = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path)]
    _run([*pip, "wheel", *wheels, str(_copy_of_the_sources(tmp_path))], os.environ)
    (wheel,) = tmp_path.glob("oneslice-*.whl")
    site = tmp_path / "site"
    _run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], os.environ, 0o077)
    for path in site.rglob("*"):
        os.utime(path, (1e9, 1e9))

    here, there = tmp_path / "here", tmp_path / "there"
    env = {**os.environ, "PYTHONPATH": str(site), "TZ": "Asia/Tokyo"}
    staged_by = _run([sys.executable, "-P", "-c", STAGE, str(there)], env, 0o077)
    assert Path(staged_by.strip()) == site / "common" / "bundle.py"
    one = build_bundle(_staged(here), here).read_bytes()
    other = (there / "bundle.fab").read_bytes()
    assert bundle_files(other) == bundle_files(one)
    assert bundle_hash(other) == bundle_hash(one)


def _copy_of_the_sources(folder: Path) -> Path:
    """Building in the repository itself would leave files there."""
    copied = folder / "sources"
    copied.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("server", "client", "common", "simulations"):
        shutil.copytree(ROOT / name, copied / name, ignore=ignored)
    for name in ("oneslice.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copied)
    return copied


def test_another_folder_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="folder is called 'oneslice', got 'other'"):
        stage_bundle(tmp_path / "other")


def test_what_flower_does_not_take_is_told(tmp_path: Path) -> None:
    app = _staged(tmp_path)
    (app / "pyproject.toml").write_text("[project]\n")
    with pytest.raises(SettingsError, match="expected `flwr build` to bundle"):
        build_bundle(app, tmp_path)
    assert not (tmp_path / "bundle.fab").exists()


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"no bundle"])
def test_what_is_no_bundle_is_named(data: bytes) -> None:
    with pytest.raises(SettingsError, match="expected Flower's bundle, a ZIP file"):
        bundle_files(data)
