"""The gate in front of code that arrives: a bundle that nobody here approved is never unpacked.

Run as a file by `bin/flwr-clientapp`, which Flower starts instead of its own program of that name;
it goes on as that program once its three steps (take the task, unpack the bundle, load the app)
are guarded. Nothing of OneSlice is imported here: the bundle's own packages have the same names,
and whatever is loaded first would be taken for the bundle's.

What Flower leaves open and the gate closes:

- Which folder is loaded follows from names that the coordinator sends beside the bundle, not from
  the bundle. It must be the one that was just unpacked.
- A folder that is there already is taken as it is: half of one, if the process was killed while
  unpacking. Each task unpacks into a folder of its own.
- An exception's text goes to the coordinator as it is, paths included. Texts here are fixed.
"""

import atexit
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

TESTED_FLOWER = "1.41.0"
APPROVALS, REFUSED = "approvals.json", "refused"
UNPACKED = Path("flwr", "unpacked")
MOST_REFUSED, MOST_REFUSED_BYTES = 5, 20_000_000
# What Flower's `run_clientapp` calls, in this order; each is replaced by a guarded one.
TAKE_TASK, UNPACK, FIND_LOADER = "pull_task_input", "install_from_fab", "get_load_client_app_fn"
FIND_FOLDER, RUN = "get_project_dir", "run_clientapp"
GUARDED = (TAKE_TASK, UNPACK, FIND_FOLDER, FIND_LOADER)


class BundleRefusedError(Exception):
    """The text goes to the coordinator: a fixed sentence and a hash, never a path."""


def approved_hashes(approvals: Path) -> frozenset[str]:
    """The sha256 of all approved bundles; none if the file is missing or is none of ours."""
    try:
        bundles = json.loads(approvals.read_text(encoding="utf-8"))["bundles"]
        return frozenset(str(one["hash"]) for one in bundles)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return frozenset()


def keep_refused(folder: Path, bundle_hash: str, bundle: bytes) -> None:
    """Keeps a refused bundle for a person to look at; the oldest go when there are too many.

    One that alone is larger than all may be together is not kept.
    """
    if len(bundle) > MOST_REFUSED_BYTES:
        return
    try:
        folder.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".unfinished-", dir=folder)
        with os.fdopen(handle, "wb") as file:
            os.fchmod(handle, 0o640)
            file.write(bundle)
        Path(name).replace(folder / f"{bundle_hash}.fab")
        _drop_oldest(folder)
    except OSError as error:
        print(f"the refused bundle could not be kept: {error}", file=sys.stderr)


def _drop_oldest(folder: Path) -> None:
    newest_first = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    total = 0
    for place, path in enumerate(newest_first):
        total += path.stat().st_size
        if place >= MOST_REFUSED or total > MOST_REFUSED_BYTES:
            path.unlink(missing_ok=True)


class Gate:
    """The guarded steps of one task."""

    def __init__(self, node: Path, flower: ModuleType) -> None:
        """`flower` is the module of `run_clientapp`, whose steps are replaced at once."""
        self.node, self.is_open = node, False
        self.named: Any = None  # the run and the bundle, as the coordinator names them
        self._take_task: Callable[..., Any] = getattr(flower, TAKE_TASK)
        self._unpack: Callable[..., Path] = getattr(flower, UNPACK)
        self._find_folder: Callable[..., Path] = getattr(flower, FIND_FOLDER)
        self._find_loader: Callable[..., Any] = getattr(flower, FIND_LOADER)
        setattr(flower, TAKE_TASK, self.take_task)
        setattr(flower, UNPACK, self.unpack)
        setattr(flower, FIND_LOADER, self.find_loader)

    def take_task(self, *arguments: Any, **options: Any) -> Any:
        """Takes the task and remembers what the coordinator calls it."""
        task = self._take_task(*arguments, **options)
        _, _, run, bundle = task
        self.named = (run.fab_id, run.fab_version, bundle.hash_str)
        return task

    def unpack(self, bundle: bytes, *_: Any, **__: Any) -> Path:
        """Unpacks a bundle that was approved into a folder that was empty.

        Raises:
            BundleRefusedError: nothing of it was unpacked, or not where it would be loaded from.
        """
        self.check_approved(bundle)
        try:
            folder = self._unpack(bundle, skip_prompt=True)
        except OSError as error:
            print(f"the bundle could not be unpacked: {error}", file=sys.stderr)
            raise BundleRefusedError("this hospital could not unpack the bundle") from None
        if folder.resolve() != self._find_folder(*self.named).resolve():
            raise BundleRefusedError("the bundle is not the app that the run names")
        self.is_open = True
        return folder

    def check_approved(self, bundle: bytes) -> None:
        """Refuses and keeps a bundle whose hash is not approved.

        Raises:
            BundleRefusedError: says how it can be approved.
        """
        found = hashlib.sha256(bundle).hexdigest()
        if found not in approved_hashes(self.node / APPROVALS):
            keep_refused(self.node / REFUSED, found, bundle)
            raise BundleRefusedError(
                f"bundle {found} is not approved at this hospital; there, "
                "`oneslice hospital approve` shows and approves it"
            )
        if self.named is None or self.named[2] != found:
            raise BundleRefusedError(f"bundle {found} came under the name of another one")

    def find_loader(self, *arguments: Any, **options: Any) -> Any:
        """Flower's loader, once the gate is open."""
        if not self.is_open:
            raise BundleRefusedError("the gate did not see the bundle that is to be loaded")
        return self._find_loader(*arguments, **options)


def check_flower(flower: ModuleType, command: ModuleType) -> None:
    """Refuses a Flower whose private steps are not those that the gate guards.

    Args:
        flower: the module of `run_clientapp`.
        command: the module of the program `flwr-clientapp`, which must call that very function.

    Raises:
        SystemExit: names this version and the one that was tested.
    """
    run = getattr(flower, RUN, None)
    # Names that the function looks up when it runs: what is replaced there is what it calls.
    called = getattr(getattr(run, "__code__", None), "co_names", ())
    missing = [one for one in GUARDED if one not in called or not hasattr(flower, one)]
    if run is None or getattr(command, RUN, None) is not run:
        missing.append(RUN)
    if not hasattr(command, "flwr_clientapp"):
        missing.append("flwr_clientapp")
    if missing:
        raise _unfit(f"it has no {', '.join(missing)} where the gate has to stand")


def _unfit(what: str) -> SystemExit:
    return SystemExit(
        f"the gate does not fit Flower {version('flwr')} (tested: {TESTED_FLOWER}): {what}. "
        f"Nothing was run: install flwr=={TESTED_FLOWER}"
    )


def own_home(node: Path) -> Path:
    """A new folder for what this process unpacks, gone when it ends."""
    (node / UNPACKED).mkdir(parents=True, exist_ok=True)
    home = tempfile.mkdtemp(prefix=f"{os.getpid()}-", dir=node / UNPACKED)
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return Path(home)


def main(node: Path) -> None:
    """Guards Flower's `flwr-clientapp` and runs it, with the rest of the command line."""
    try:
        # By name: the package has a function of the module's name in its place.
        command = import_module("flwr.supernode.cli.flwr_clientapp")
        flower = import_module("flwr.supernode.runtime.run_clientapp")
    except ImportError as error:
        raise _unfit(str(error)) from None
    check_flower(flower, command)
    Gate(node, flower)
    os.environ["FLWR_HOME"] = str(own_home(node))
    command.flwr_clientapp()


if __name__ == "__main__":
    # Flower tells by the program's name which of its programs an exit code belongs to.
    node_folder = Path(sys.argv[1])
    sys.argv = ["flwr-clientapp", *sys.argv[2:]]
    main(node_folder)
