"""The store of one hospital: a folder with a SQLite catalog (WAL) and files keyed by content."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from client.store.atomic_files import disk_full
from client.store.schema import SCHEMA, SCHEMA_VERSION
from common.errors import SettingsError, StoreError
from common.plan import NAME_PATTERN

BUSY_S = 30.0  # the longest that one process waits for another's transaction


@dataclass(frozen=True)
class Store:
    """A hospital's folder. `hospital` is the name that the coordinator knows it by."""

    folder: Path
    hospital: str

    @property
    def catalog(self) -> Path:
        """The SQLite file."""
        return self.folder / "catalog.sqlite"

    @contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """One transaction: committed at the end, taken back if anything is raised.

        Raises:
            StoreError: the disk is full, or the catalog is damaged.
        """
        with _translated(self.folder), closing(_open(self.catalog)) as connection, connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A connection for reading only; never waits for a writer."""
        with _translated(self.folder), closing(_open(self.catalog)) as connection:
            yield connection

    def rewrite(self) -> None:
        """Writes the catalog anew: nothing of deleted rows is left in its file or its log.

        Raises:
            StoreError: others kept reading or writing it for half a minute, or the disk is full.
        """
        with _translated(self.folder), closing(_open(self.catalog)) as connection:
            # In memory: otherwise SQLite puts its copy into the system's folder for such files.
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA secure_delete = ON")
            connection.execute("VACUUM")
            is_busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if is_busy:
            raise StoreError(
                f"the catalog in {self.folder} is being read, so its log cannot be emptied: stop "
                "the other programs that use the store and run the same command again"
            )


def create_store(folder: Path, hospital: str) -> Store:
    """The store in `folder`, made on first use.

    Raises:
        SettingsError: the name is none that the coordinator would take.
        StoreError: the folder belongs to another hospital, or cannot be written.
    """
    if re.fullmatch(NAME_PATTERN, hospital) is None:
        raise SettingsError(
            f"hospital name {hospital!r}: expected up to 48 letters, digits, - and _, the first a "
            "letter or digit"
        )
    store = Store(folder, hospital)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(
            f"the folder {folder} cannot be made: {error.strerror}; choose another"
        ) from error
    with store.connect() as connection:
        # 0: a new file, or one whose making was ended before the schema was committed.
        if _version_of(connection) == 0:
            for statement in SCHEMA.split(";\n"):
                connection.execute(statement)
            connection.execute("INSERT INTO hospital VALUES (?)", (hospital,))
            connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    found = open_store(folder)
    if found.hospital != hospital:
        raise StoreError(
            f"{folder} is the store of {found.hospital!r}, not of {hospital!r}: "
            "choose another folder"
        )
    return found


def open_store(folder: Path) -> Store:
    """The store in `folder`.

    Raises:
        StoreError: there is none, it is damaged, or another version of OneSlice made it.
    """
    store = Store(folder, "")
    if not store.catalog.exists():
        raise StoreError(f"expected a hospital's store in {folder}: make one with `hospital init`")
    with store.read() as connection:
        version = _version_of(connection)
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{store.catalog} has schema version {version}, this OneSlice reads "
                f"{SCHEMA_VERSION}: install the version that made it, or start a new folder"
            )
        name = connection.execute("SELECT name FROM hospital").fetchone()["name"]
    return Store(folder, name)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.DatabaseError:
        connection.close()
        raise
    return connection


def _version_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


@contextmanager
def _translated(folder: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "disk is full" in str(error) or "disk I/O error" in str(error):
            raise disk_full(folder) from error
        if isinstance(error, sqlite3.IntegrityError):
            raise
        raise StoreError(f"the catalog in {folder} cannot be used: {error}") from error
