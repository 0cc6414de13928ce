"""The background's order of work, what it keeps, and what it says when something fails."""

import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from client.annotation.page.previews import (
    Advice,
    Labeller,
    Made,
    Preview,
    Previews,
    Shown,
    Slices,
)
from common.errors import StoreError

SLICES: Slices = ((2, 5, 1),)
NEWER: Slices = ((2, 5, 2),)
PATIENCE_S = 20.0
VOLUME_BYTES = 2 * 4**3  # labels and confidence


class Painter:
    """Makes volumes of one number, writes down what it does, and waits where it is told to."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.fails: dict[str, Exception] = {}
        self.in_update = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()

    def spread(self, scan_id: str) -> Made:
        self.done.append(f"spread {scan_id}")
        if scan_id in self.fails:
            raise self.fails[scan_id]
        return Made(volume("propagated"), "spread")

    def update(self, scan_id: str, spread: Shown, pause: Callable[[], None]) -> Made:
        self.done.append(f"update {scan_id}")
        assert spread.source == "propagated"
        if scan_id == "without model":
            return Made(None, "no model yet")
        if scan_id == "breaks":
            raise RuntimeError("/secret/path")
        self.in_update.set()
        assert self.go_on.wait(PATIENCE_S)
        pause()
        self.done.append(f"updated {scan_id}")
        return Made(volume("fused"), "updated", Advice(2, 9, 0.02, "paint 9"))


def volume(source: str) -> Shown:
    labels = np.full((4, 4, 4), 1, np.uint8)
    return Shown(source, labels, labels, {1: 64})  # type: ignore[arg-type]


@pytest.fixture
def painter() -> Painter:
    """Whoever makes the volumes."""
    return Painter()


@pytest.fixture
def previews(painter: Painter) -> Iterator[Previews]:
    """At work, with room for three volumes."""
    previews = Previews(lambda: painter, most_bytes=3 * VOLUME_BYTES)
    previews.start()
    yield previews
    painter.go_on.set()
    previews.stop()


def until(previews: Previews, scan_id: str, *states: str, slices: Slices = SLICES) -> Preview:
    """The preview once its update is in one of the states."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        found = previews.look(scan_id, slices)
        if found.state in states:
            return found
        time.sleep(0.005)
    raise AssertionError(f"{scan_id} is {found.state}, not {states}")


def test_a_slice_is_spread_then_updated(previews: Previews, painter: Painter) -> None:
    painter.go_on.clear()
    first = previews.look("a", SLICES)
    assert (first.shown, first.digest, first.state) == (None, "", "waiting")
    running = until(previews, "a", "running")
    assert running.shown is not None
    assert (running.shown.source, running.sentence, running.seconds) == (
        "propagated",
        "spread",
        None,
    )
    painter.go_on.set()
    done = until(previews, "a", "done")
    assert done.shown is not None
    assert (done.shown.source, done.sentence) == ("fused", "updated")
    assert done.suggestion == Advice(2, 9, 0.02, "paint 9")
    assert done.seconds is not None
    assert done.digest not in (running.digest, "")
    assert painter.done == ["spread a", "update a", "updated a"]


def test_what_is_there_is_not_made_again(previews: Previews, painter: Painter) -> None:
    done = until(previews, "a", "done")
    assert previews.look("a", SLICES) == done
    assert painter.done.count("spread a") == 1


def test_a_spread_does_not_wait_for_an_update(previews: Previews, painter: Painter) -> None:
    painter.go_on.clear()
    until(previews, "a", "running")
    previews.look("b", SLICES)
    painter.go_on.set()
    until(previews, "a", "done")
    assert painter.done[:4] == ["spread a", "update a", "spread b", "updated a"]
    until(previews, "b", "done")


def test_an_update_of_what_was_painted_over_ends(previews: Previews, painter: Painter) -> None:
    painter.go_on.clear()
    until(previews, "a", "running")
    assert previews.look("a", NEWER).shown is None
    painter.go_on.set()
    until(previews, "a", "done", slices=NEWER)
    assert painter.done == ["spread a", "update a", "spread a", "update a", "updated a"]


def test_without_a_model_the_spread_label_stays(previews: Previews) -> None:
    found = until(previews, "without model", "none")
    assert found.shown is not None
    assert (found.shown.source, found.sentence) == ("propagated", "no model yet")


def test_a_failure_is_told_without_its_details(
    previews: Previews, painter: Painter, caplog: pytest.LogCaptureFixture
) -> None:
    painter.fails["a"] = StoreError("the disk is full")
    found = until(previews, "a", "failed")
    assert (found.shown, found.sentence) == (None, "the disk is full")
    broken = until(previews, "breaks", "failed")
    assert broken.shown is not None, "the spread label is there all the same"
    assert "/secret/path" not in broken.sentence
    assert "/secret/path" in caplog.text
    assert until(previews, "c", "done").shown is not None, "the thread goes on"


def test_what_was_looked_at_last_is_kept(previews: Previews, painter: Painter) -> None:
    for scan_id in ("a", "b", "c"):
        until(previews, scan_id, "done")
    previews.look("a", SLICES)
    until(previews, "d", "done")
    for scan_id in ("a", "c", "d"):
        previews.look(scan_id, SLICES)
    assert painter.done.count("spread a") == painter.done.count("spread c") == 1
    until(previews, "b", "done")
    assert painter.done.count("spread b") == 2, "it was dropped for room, and made again"


def test_a_volume_larger_than_the_room_is_kept_alone(painter: Painter) -> None:
    previews = Previews(lambda: painter, most_bytes=1)
    previews.start()
    until(previews, "a", "done")
    assert until(previews, "b", "done").shown is not None
    previews.stop()


def test_an_engine_that_cannot_be_loaded_ends_no_request(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def load() -> Labeller:
        raise ImportError("torch is broken")

    previews = Previews(load, most_bytes=1)
    previews.start()
    found = until(previews, "a", "failed")
    assert "the window where the page was started" in found.sentence
    assert "torch is broken" in caplog.text
    previews.stop()


def test_stopping_ends_the_update_under_way(painter: Painter) -> None:
    painter.go_on.clear()
    previews = Previews(lambda: painter, most_bytes=3 * VOLUME_BYTES)
    previews.start()
    until(previews, "a", "running")
    stopping = threading.Thread(target=previews.stop)
    stopping.start()
    while not previews._stopping:
        time.sleep(0.005)
    painter.go_on.set()
    stopping.join(PATIENCE_S)
    assert not stopping.is_alive()
    assert painter.done == ["spread a", "update a"]
