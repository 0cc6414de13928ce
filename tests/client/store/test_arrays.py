"""Arrays are found by their content and come back exactly."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.extra.numpy import array_shapes, arrays

from client.store import atomic_files
from client.store.arrays import load_array, save_array
from client.store.store import Store
from common.errors import StoreError


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(arrays(np.float32, array_shapes(max_dims=4), elements={"allow_nan": False}))
def test_what_is_saved_comes_back(store: Store, array: np.ndarray) -> None:
    loaded = load_array(store, save_array(store, array))
    assert loaded.dtype == array.dtype
    np.testing.assert_array_equal(loaded, array)


def test_the_same_content_has_one_key_and_one_file(store: Store) -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    keys = {save_array(store, array), save_array(store, np.asfortranarray(array))}
    assert len(keys) == 1
    assert len(list(store.folder.rglob("*.npy"))) == 1


def test_shape_and_type_belong_to_the_content(store: Store) -> None:
    zeros = np.zeros((2, 4), dtype=np.uint8)
    same_bytes = [zeros, zeros.reshape(4, 2), zeros.view(np.int8), zeros.view(np.uint16)]
    assert len({save_array(store, array) for array in same_bytes}) == 4


def test_a_loaded_array_is_mapped_and_read_only(store: Store) -> None:
    loaded = load_array(store, save_array(store, np.ones(4)))
    assert isinstance(loaded, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        loaded[0] = 2


def test_a_missing_array_says_what_to_do(store: Store) -> None:
    with pytest.raises(StoreError, match=r"missing or damaged.*ingest"):
        load_array(store, "0" * 64)


@pytest.mark.parametrize("kept", [0, 20, 150])
def test_a_truncated_array_is_refused(store: Store, kept: int) -> None:
    key = save_array(store, np.ones(100))
    path: Path = next(store.folder.rglob(f"{key}.npy"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(StoreError, match="missing or damaged"):
        load_array(store, key)


def test_a_full_disk_is_a_store_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy writes to a plain file through C and then drops the reason of a short write."""
    monkeypatch.setattr(Path, "open", lambda *_: open("/dev/full", "wb"))  # noqa: SIM115
    with pytest.raises(StoreError, match="is full"):
        save_array(store, np.ones(100_000))
    assert list(store.folder.rglob("*.npy")) == []


def test_the_catalogs_share_of_the_disk_is_left_free(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite cannot even read on a disk without a free byte."""
    whole = atomic_files.shutil.disk_usage(store.folder)
    nearly_full = whole._replace(free=atomic_files.CATALOG_ROOM_BYTES + 799)
    monkeypatch.setattr(atomic_files.shutil, "disk_usage", lambda _: nearly_full)
    save_array(store, np.ones(99))
    with pytest.raises(StoreError, match="is full"):
        save_array(store, np.ones(100))
