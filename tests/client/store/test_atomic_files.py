"""Files are there whole or not at all."""

import errno
from pathlib import Path

import pytest

from client.store import atomic_files
from client.store.atomic_files import write_atomically
from common.errors import StoreError


def _write(text: str, path: Path) -> None:
    path.write_text(text)


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    write_atomically(path, lambda p: _write("old", p))
    write_atomically(path, lambda p: _write("new", p))
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise RuntimeError("power")

    with pytest.raises(RuntimeError, match="power"):
        write_atomically(path, fail)
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "old"


def test_a_full_disk_is_a_store_error(tmp_path: Path) -> None:
    def fill(unfinished: Path) -> None:
        unfinished.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StoreError, match=r"is full \(\d+ MB free\).*free some space"):
        write_atomically(tmp_path / "file.txt", fill)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_before_the_first_byte_is_a_store_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: object) -> tuple[int, str]:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic_files.tempfile, "mkstemp", refuse)
    with pytest.raises(StoreError, match="is full"):
        write_atomically(tmp_path / "file.txt", lambda p: _write("text", p))
