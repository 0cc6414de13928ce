"""What nothing points to is found, and nothing else."""

import re

import numpy as np
import pytest

from client.store.arrays import is_whole, load_array, remove_array, save_array
from client.store.leftovers import (
    array_columns,
    find_leftovers,
    keys_pointed_to,
    remove_leftovers,
    rows_pointing_to,
)
from client.store.scans import list_scans
from client.store.schema import SCHEMA
from client.store.store import Store


def test_every_column_that_names_an_array_counts(store: Store) -> None:
    """A new table must not lose its arrays to the next cleaning."""
    with store.read() as connection:
        found = {f"{table}.{column}" for table, column in array_columns(connection)}
    assert len(found) == len(re.findall(r"^ +\w+_key TEXT", SCHEMA, re.MULTILINE))
    assert {"scans.display_key", "annotations.mask_key", "correspondence.weights_key"} <= found


def test_what_killed_processes_leave_is_found_and_removed(
    store: Store, scan_ids: list[str]
) -> None:
    assert find_leftovers(store) == []
    key = save_array(store, np.arange(5))
    files = [
        store.folder / "arrays" / "ab" / ".unfinished-x.npy",
        store.folder / "rounds" / "fed" / ".unfinished-y.reply",
        store.folder / ".unfinished-z",
        store.folder / "trial-1" / "catalog.sqlite",
    ]
    for path in files:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    found = find_leftovers(store)
    assert sorted(one.num_bytes for one in found)[:4] == [4] * 4
    assert [one.key for one in found if one.key] == [key]
    assert len(found) == 5
    assert remove_leftovers(store) == found
    assert find_leftovers(store) == []
    assert not any(path.exists() for path in files)
    for scan in list_scans(store):
        assert load_array(store, scan.image_key).shape == (1, 5, 6, 4)


def test_the_rows_behind_an_array_are_named(store: Store, scan_ids: list[str]) -> None:
    scan = list_scans(store)[0]
    with store.read() as connection:
        found = rows_pointing_to(connection, [scan.image_key, "no such key"])
        assert [table for table, _ in found[scan.image_key]] == ["scans"]
        assert found["no such key"] == []
        assert len(keys_pointed_to(connection)) == 3 * len(scan_ids)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_an_array_that_is_not_what_its_name_says_is_told(store: Store, damage: str) -> None:
    key = save_array(store, np.arange(100.0))
    (path,) = store.folder.rglob(f"{key}.npy")
    assert is_whole(store, key, look_inside=True)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    if damage == "gone":
        remove_array(store, key)
    else:
        path.write_bytes(data if damage == "flipped" else data[:-8])
    assert not is_whole(store, key, look_inside=True)
    assert is_whole(store, key, look_inside=False) == (damage != "gone")
