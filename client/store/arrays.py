"""Arrays on disk, named by their content and memory-mapped when read."""

import hashlib
from pathlib import Path

import numpy as np

from client.store.atomic_files import check_room, write_atomically
from client.store.store import Store
from common.errors import StoreError


def save_array(store: Store, array: np.ndarray) -> str:
    """Stores the array unless one of the same content is there; returns its key."""
    contiguous = np.ascontiguousarray(array)
    key = _key_of(contiguous)
    path = _path_of(store, key)
    if not path.exists():
        check_room(store.folder, contiguous.nbytes)
        write_atomically(path, lambda unfinished: _save_npy(unfinished, contiguous))
    return key


def load_array(store: Store, key: str) -> np.ndarray:
    """The stored array, mapped read-only.

    Raises:
        StoreError: the file is gone or damaged.
    """
    try:
        array: np.ndarray = np.load(_path_of(store, key), mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(
            f"array {key[:12]} in {store.folder} is missing or damaged ({error}): "
            "ingest the scans again"
        ) from error
    return array


def array_bytes(store: Store, key: str) -> int:
    """How many bytes of the disk an array takes.

    Raises:
        StoreError: the file is gone.
    """
    try:
        return _path_of(store, key).stat().st_size
    except OSError as error:
        raise StoreError(
            f"array {key[:12]} in {store.folder} is missing ({error.strerror}): ingest the scans "
            "again"
        ) from error


def is_whole(store: Store, key: str, *, look_inside: bool) -> bool:
    """Whether an array is there; with `look_inside` also whether its content is still its own."""
    path = _path_of(store, key)
    if not look_inside:
        return path.is_file()
    try:
        return _key_of(np.load(path, allow_pickle=False)) == key
    except (OSError, ValueError, EOFError):
        return False


def remove_array(store: Store, key: str) -> None:
    """Removes an array's file, if it is there."""
    _path_of(store, key).unlink(missing_ok=True)


def _key_of(array: np.ndarray) -> str:
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _path_of(store: Store, key: str) -> Path:
    return store.folder / "arrays" / key[:2] / f"{key}.npy"


def _save_npy(path: Path, array: np.ndarray) -> None:
    # np.save writes through C and hides why a write failed; a full disk must be told apart.
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)
