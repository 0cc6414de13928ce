"""What travels to hospitals: an allowlist of code, never a file that lies in the tree."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def build(folder: Path, home: Path) -> Path:
    """Flower's bundle of the app in `folder`."""
    home.mkdir()
    subprocess.run(
        [str(Path(sys.executable).parent / "flwr"), "build", "--app", str(folder)],
        cwd=home,
        env={**os.environ, "FLWR_HOME": str(home / "flwr")},
        check=True,
        capture_output=True,
    )
    (bundle,) = home.glob("*.fab")
    return bundle


def test_the_bundle_holds_the_allowed_files_and_nothing_else(tmp_path: Path) -> None:
    app = tmp_path / "oneslice"
    app.mkdir()
    for name in ("server", "client", "common", "simulations"):
        shutil.copytree(ROOT / name, app / name)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, app)
    for place in (app, app / "client", app / "server"):
        (place / "patients.json").write_text('{"name": "Jane Doe"}')
    bundle = build(app, tmp_path / "one")
    names = [n for n in zipfile.ZipFile(bundle).namelist() if not n.startswith(".info")]
    code = [name for name in names if name.endswith(".py")]
    assert {name.split("/")[0] for name in code} == {"server", "common", "client"}
    assert sorted(n for n in code if n.startswith("client")) == [
        "client/__init__.py",
        "client/app.py",
    ]
    assert set(names) - set(code) <= {"pyproject.toml", "README.md", "LICENSE"}

    (app / "simulations" / "more.py").write_text("x = 1\n")
    again = build(app, tmp_path / "two")
    assert again.read_bytes() == bundle.read_bytes(), "what does not travel changes no hash"
