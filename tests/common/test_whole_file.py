"""Files that are there whole, with the rights that they are to have."""

import os
import stat
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
