"""Files that are there whole, with the rights that they are to have."""

import os
import stat
import time
from pathlib import Path

import pytest

from common.whole_file import PRIVATE, PUBLIC, write_whole


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
@pytest.mark.parametrize("mode", [PRIVATE, PUBLIC])
def test_the_rights_do_not_depend_on_the_umask(tmp_path: Path, mode: int, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_whole(tmp_path / "new" / "key", "text", mode)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new" / "key").stat().st_mode) == mode
    assert (tmp_path / "new" / "key").read_text() == "text"


def test_a_private_file_replaces_an_open_one(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("before")
    (tmp_path / "key").chmod(0o666)
    write_whole(tmp_path / "key", b"after", PRIVATE)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == PRIVATE
    assert (tmp_path / "key").read_bytes() == b"after"


def test_what_fails_leaves_the_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_whole(tmp_path / "file", "before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "file", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"


def test_what_a_killed_writer_left_is_removed_and_what_another_one_writes_is_not(
    tmp_path: Path,
) -> None:
    names = (".file-old.unfinished", ".file-new.unfinished", ".other-old.unfinished", ".file-mine")
    hours_ago = time.time() - 7200
    for name in names:
        (tmp_path / name).touch()
        if "new" not in name:
            os.utime(tmp_path / name, (hours_ago, hours_ago))
    write_whole(tmp_path / "file", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["file", *names[1:]])


def test_the_folder_is_flushed_after_the_file_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[tuple[bool, bool]] = []

    def note(handle: int) -> None:
        flushed.append((stat.S_ISDIR(os.fstat(handle).st_mode), (tmp_path / "file").exists()))

    monkeypatch.setattr(os, "fsync", note)
    write_whole(tmp_path / "file", "text")
    assert flushed == [(False, False), (True, True)]
