"""A copy of a store to try something on: the catalog is copied, the arrays are shared."""

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from client.store.leftovers import TRIAL
from client.store.old_models import OLD_MODELS
from client.store.store import Store

SINGLE_FILES = ("policy.toml", "audit.head")


@contextmanager
def trial_copy(store: Store) -> Iterator[Store]:
    """A store that begins like `store`; what is done to it is gone at the end.

    It lies inside the store's own folder, which is where a patient's data may be; `doctor` finds
    and removes what a killed process leaves of it.
    """
    folder = Path(tempfile.mkdtemp(prefix=TRIAL, dir=store.folder))
    try:
        copy = Store(folder, store.hospital)
        with (
            closing(sqlite3.connect(store.catalog)) as source,
            closing(sqlite3.connect(copy.catalog)) as target,
        ):
            source.backup(target)
        for name in ("arrays", "rounds", OLD_MODELS):
            if (store.folder / name).exists():
                shutil.copytree(store.folder / name, folder / name, copy_function=_share)
        for name in SINGLE_FILES:
            if (store.folder / name).exists():
                shutil.copy2(store.folder / name, folder / name)
        yield copy
    finally:
        shutil.rmtree(folder)


def _share(source: str, target: str) -> None:
    """A second name for a file, whose content nobody ever changes: a write is always a new file."""
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
