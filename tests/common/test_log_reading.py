"""The ends of logs, and what is written after them."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import SettingsError
from common.log_reading import LINES, find_logs, last_lines, print_logs


def test_the_last_lines_of_one_log(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.log").write_text("".join(f"line {number}\n" for number in range(100)))
    (tmp_path / "two.log").write_text("other\n")
    print_logs(find_logs(tmp_path), "one", follow=False)
    assert capsys.readouterr().out.splitlines() == [f"line {n}" for n in range(100 - LINES, 100)]


def test_several_logs_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "one.log").write_text("first\n")
    (tmp_path / "two.log").write_text("second\n")
    print_logs(find_logs(tmp_path), None, follow=False)
    assert capsys.readouterr().out == "one: first\ntwo: second\n"


def test_an_unknown_log_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    (tmp_path / "one.log").touch()
    with pytest.raises(SettingsError, match="got 'three'; there are: one"):
        print_logs(find_logs(tmp_path), "three", follow=False)


def test_a_log_that_is_gone_or_no_text_costs_nothing(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none.log", 5) == []
    (tmp_path / "odd.log").write_bytes(b"\xff\xfe\nfine\n")
    assert last_lines(tmp_path / "odd.log", 1) == ["fine"]


def test_what_comes_later_is_followed_even_after_the_log_was_cut(tmp_path: Path) -> None:
    log = tmp_path / "one.log"
    log.write_text("before\n")
    program = (
        "import signal, sys; from pathlib import Path; from common.log_reading import *\n"
        # Started in the background, tests and what they start would ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "print_logs(find_logs(Path(sys.argv[1])), 'one', follow=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "before\n"
        with log.open("a") as file:
            file.write("after\nhalf a")
        assert reader.stdout.readline() == "after\n"
        with log.open("a") as file:
            file.write(" line\n")
        assert reader.stdout.readline() == "half a line\n"
        log.write_text("new\n")
        assert reader.stdout.readline() == "new\n"
        reader.send_signal(signal.SIGINT)
        assert reader.wait(20) == 0
