"""The store opens, refuses what is not its own, and takes back a transaction that fails."""

import sqlite3
from pathlib import Path

import pytest

from client.store.store import Store, create_store, open_store
from common.errors import StoreError


def test_a_store_made_again_is_the_same(tmp_path: Path) -> None:
    made = create_store(tmp_path / "s", "north")
    assert create_store(tmp_path / "s", "north") == made == open_store(tmp_path / "s")


def test_another_hospitals_folder_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="store of 'north', not of 'south'"):
        create_store(store.folder, "south")


def test_a_folder_without_a_store_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="expected a hospital's store"):
        open_store(tmp_path)


def test_an_unknown_schema_version_is_refused(store: Store) -> None:
    connection = sqlite3.connect(store.catalog)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match="schema version 99"):
        open_store(store.folder)


def test_a_damaged_catalog_is_refused_in_plain_text(store: Store) -> None:
    store.catalog.write_bytes(b"this is no database" * 500)
    for beside in store.folder.glob("catalog.sqlite-*"):
        beside.unlink()
    with pytest.raises(StoreError, match="cannot be used"):
        open_store(store.folder)


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path) -> None:
    """SQLite makes the file on the first statement, before the schema is committed."""
    (tmp_path / "catalog.sqlite").touch()
    assert create_store(tmp_path, "north") == open_store(tmp_path)


def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("taken")
    with pytest.raises(StoreError, match="cannot be made"):
        create_store(tmp_path / "file", "north")


def test_a_failed_transaction_leaves_nothing(store: Store) -> None:
    def stop_halfway() -> None:
        with store.connect() as connection:
            connection.execute("INSERT INTO quarantine VALUES ('t', 'c', 'r')")
            raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        stop_halfway()
    with store.read() as connection:
        assert connection.execute("SELECT COUNT(*) FROM quarantine").fetchone()[0] == 0


def test_a_full_disk_is_said_plainly_and_the_store_still_opens(store: Store) -> None:
    def fill() -> None:
        with store.connect() as connection:
            # The page limit makes SQLite report what it reports on a full disk.
            connection.execute("PRAGMA max_page_count = 1")
            rows = [(number, "x" * 4000) for number in range(100)]
            connection.executemany("INSERT INTO quarantine VALUES ('t', ?, ?)", rows)

    with pytest.raises(StoreError, match=r"is full .* free some space"):
        fill()
    assert open_store(store.folder) == store


def test_foreign_keys_are_on(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"), store.connect() as connection:
        connection.execute(
            "INSERT INTO label_maps VALUES ('no', 1, '', '', 0, 0, '', '', '', '', '', '')"
        )
