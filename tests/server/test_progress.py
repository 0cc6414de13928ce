"""What a server tells while it works, and what is left when it ends."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from common.processes import read_process
from server import progress
from server.progress import Progress, Step, read_progress, telling_progress

PLAN = ("small-0123abcd", "7", 3)


def _read(path: Path) -> Progress:
    found = read_progress(path)
    assert found is not None
    return found


def _wait_for(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not claim():
        assert time.monotonic() < deadline, "waited for half a minute"
        time.sleep(0.01)


def test_steps_stand_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    assert read_progress(path) is None
    with telling_progress(path, *PLAN) as tell:
        tell(Step("asking", 1, ("north", "south"), "hospitals train"))
        found = _read(path)
        me = read_process(os.getpid())
        assert me is not None
        assert (found.federation, found.run_id, found.rounds) == PLAN
        assert (found.pid, found.started_ticks) == (me.pid, me.started_ticks)
        assert (found.phase, found.round, found.waiting_for) == ("asking", 1, ("north", "south"))
        assert found.is_alive()
        tell(Step("finished", 3))
    assert _read(path).phase == "finished"


def test_the_heart_beats_and_brings_what_is_no_new_phase(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_S", 0.02)
    path = tmp_path / "progress.json"
    with telling_progress(path, *PLAN) as tell:
        tell(Step("asking", 1, ("north", "south")))
        tell(Step("asking", 1, ("south",)))
        _wait_for(lambda: _read(path).waiting_for == ("south",))
        before = path.stat().st_mtime_ns
        _wait_for(lambda: path.stat().st_mtime_ns > before)


def test_an_error_is_the_last_step_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"

    def fail() -> None:
        with telling_progress(path, *PLAN) as tell:
            tell(Step("averaging", 2))
            raise ValueError("no such plan")

    with pytest.raises(ValueError, match="no such plan"):
        fail()
    found = _read(path)
    assert (found.phase, found.round) == ("failed", 2)
    assert found.sentence == "ValueError: no such plan"


def test_a_server_that_is_told_to_end_says_so(tmp_path: Path) -> None:
    path = tmp_path / "progress.json"
    with pytest.raises(SystemExit, match="0"), telling_progress(path, *PLAN):
        raise SystemExit(0)
    assert _read(path).sentence == "the server was told to end"


def test_the_process_of_a_killed_server_is_known_to_be_gone(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from server.progress import telling_progress\n"
        "with telling_progress(Path(sys.argv[1]), 'small-0123abcd', '7', 3):\n"
        "    time.sleep(600)"
    )
    path = tmp_path / "progress.json"
    server = subprocess.Popen([sys.executable, "-c", program, str(path)])
    try:
        _wait_for(path.exists)
        assert _read(path).is_alive()
    finally:
        server.kill()
        server.wait()
    assert not _read(path).is_alive()
    assert _read(path).phase == "waiting"


def test_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"phase": "dancing"}')
    assert read_progress(tmp_path / "progress.json") is None


def test_the_time_tells_how_long_a_server_has_been_silent(tmp_path: Path) -> None:
    with telling_progress(tmp_path / "progress.json", *PLAN):
        pass
    found = _read(tmp_path / "progress.json")
    day_before = found.model_copy(update={"time": "2020-01-01T00:00:00+00:00"})
    assert day_before.silent_s > 86400 > found.silent_s
