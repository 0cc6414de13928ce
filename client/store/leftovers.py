"""Files of a store that nothing points to: arrays without a row, and what killed processes left."""

import shutil
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from client.store.atomic_files import UNFINISHED
from client.store.old_models import OLD_MODELS
from client.store.received_models import RECEIVED
from client.store.store import Store

TRIAL = "trial-"  # copies of a store that a dry run works on


@dataclass(frozen=True)
class Leftover:
    """A file, or a folder, that can go. `key` is the content's digest if it is an array."""

    path: Path
    num_bytes: int
    key: str | None = None


def array_columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """(table, column) of every column that names an array: all that end in "_key"."""
    query = (
        "SELECT tables.name AS in_table, columns.name AS in_column FROM sqlite_master AS tables "
        "JOIN pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND substr(columns.name, -4) = '_key' ORDER BY 1, 2"
    )
    return [(row["in_table"], row["in_column"]) for row in connection.execute(query)]


def keys_pointed_to(connection: sqlite3.Connection) -> set[str]:
    """The digests of all arrays that a row points to."""
    keys: set[str] = set()
    for table, column in array_columns(connection):
        rows = connection.execute(f"SELECT DISTINCT {column} AS k FROM {table}")
        keys.update(row["k"] for row in rows if row["k"] is not None)
    return keys


def rows_pointing_to(
    connection: sqlite3.Connection, keys: Collection[str]
) -> dict[str, list[tuple[str, int]]]:
    """(table, rowid) of all rows that point to each of the arrays."""
    found: dict[str, list[tuple[str, int]]] = {key: [] for key in keys}
    for table, column in array_columns(connection):
        # One pass over each table, however many arrays are asked about.
        for row in connection.execute(f"SELECT rowid, {column} AS k FROM {table}"):
            if row["k"] in found:
                found[row["k"]].append((table, row["rowid"]))
    return found


def find_leftovers(store: Store) -> list[Leftover]:
    """All of them, by path. Only who has the store alone can be sure that none is still wanted."""
    with store.read() as connection:
        wanted = keys_pointed_to(connection)
    found = [
        Leftover(path, path.stat().st_size, path.stem)
        for path in (store.folder / "arrays").glob("*/*.npy")
        if path.stem not in wanted and not path.name.startswith(UNFINISHED)
    ]
    for folder in ("", "arrays/*/", "rounds/*/", f"{OLD_MODELS}/*/"):
        unfinished = store.folder.glob(f"{folder}{UNFINISHED}*")
        found += [Leftover(path, path.stat().st_size) for path in unfinished]
    for folders in (f"{TRIAL}*", f"{RECEIVED}/{UNFINISHED}*", f"{RECEIVED}/*/{UNFINISHED}*"):
        found += [Leftover(path, _size(path)) for path in store.folder.glob(folders)]
    return sorted(found, key=lambda one: one.path)


def remove_leftovers(store: Store) -> list[Leftover]:
    """Removes them and says which; the caller has the store alone."""
    found = find_leftovers(store)
    for leftover in found:
        if leftover.path.is_dir():
            shutil.rmtree(leftover.path)
        else:
            leftover.path.unlink(missing_ok=True)
    return found


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
