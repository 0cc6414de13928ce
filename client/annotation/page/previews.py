"""What becomes of a painted slice in its volume, worked out in the background.

One thread for the whole server. Spreading takes a second and somebody waits for it, an updated
prediction takes ten: so spreading goes first, also in the midst of an update. What is kept to look
at is bounded; what was dropped is made again when somebody looks.
"""

import logging
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import UInt8

from common.errors import OneSliceError

log = logging.getLogger(__name__)

# Axis, index and version of each painted slice: a label made from others is out of date.
Slices = tuple[tuple[int, int, int], ...]
UpdateState = Literal["none", "waiting", "running", "done", "failed"]


@dataclass(frozen=True)
class Shown:
    """A volume of labels to look at.

    Attributes:
        source: the painted slices carried through the scan, alone or joined by the model.
        labels: the likeliest label index of each voxel.
        confidence: its probability, 0 to 255.
        voxels: how many each label index has; the background is left out.
    """

    source: Literal["propagated", "fused"]
    labels: UInt8[np.ndarray, "i j k"]
    confidence: UInt8[np.ndarray, "i j k"]
    voxels: dict[int, int]


@dataclass(frozen=True)
class Advice:
    """A further slice worth painting; the gain is in the Dice of the scan."""

    axis: int
    index: int
    expected_gain: float
    sentence: str


@dataclass(frozen=True)
class Made:
    """What a step made; `shown` is None where there was nothing to make it with."""

    shown: Shown | None
    sentence: str
    suggestion: Advice | None = None


@runtime_checkable
class Labeller(Protocol):
    """Whoever makes volumes from painted slices."""

    def spread(self, scan_id: str) -> Made:
        """The painted slices carried through their scan."""
        ...

    def update(self, scan_id: str, spread: Shown, pause: Callable[[], None]) -> Made:
        """The current model's view after a few steps on this scan; calls `pause` in between.

        `spread` is what the first step showed.
        """
        ...


@dataclass(frozen=True)
class Preview:
    """What there is to see of a scan now.

    Attributes:
        slices: what it is made from.
        asked_s: when, on a clock that never goes back.
        shown: None while it is being made.
        digest: another one whenever what is shown changes.
        state: of the update.
        sentence: for whoever looks.
        suggestion: a further slice to paint, if one is known.
        seconds: from asking to the end of the update.
    """

    slices: Slices
    asked_s: float
    shown: Shown | None = None
    digest: str = ""
    state: UpdateState = "waiting"
    sentence: str = "The painted slice is being carried through the scan."
    suggestion: Advice | None = None
    seconds: float | None = None


class _DroppedError(Exception):
    """The work under way is for nobody any more."""


@dataclass(frozen=True)
class _Broken:
    """In the place of a labeller that could not be loaded."""

    error: Exception

    def spread(self, scan_id: str) -> Made:
        raise self.error

    def update(self, scan_id: str, spread: Shown, pause: Callable[[], None]) -> Made:
        raise self.error


class Previews:
    """The background's work and what it has made so far."""

    def __init__(self, load: Callable[[], Labeller], *, most_bytes: int) -> None:
        """`load` is called in the background: it imports what takes seconds to load."""
        self._load = load
        self._most_bytes = most_bytes
        self._kept: OrderedDict[str, Preview] = OrderedDict()
        self._to_spread: list[str] = []
        self._to_update: list[str] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._loaded = threading.Event()
        self._thread = threading.Thread(target=self._work, name="previews", daemon=True)

    def start(self) -> None:
        """Begins to work."""
        self._thread.start()

    def stop(self) -> None:
        """Ends after the step under way; does not wait for what is still being imported."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._loaded.is_set():
            self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether its thread is still there: after `stop`, only if it was stopped while loading."""
        return self._thread.is_alive()

    def look(self, scan_id: str, slices: Slices) -> Preview:
        """What there is to see of a scan; begins to make it if there is nothing, or it is old."""
        with self._changed:
            preview = self._kept.get(scan_id)
            if preview is None or preview.slices != slices:
                preview = Preview(slices, time.monotonic())
                self._kept[scan_id] = preview
                self._to_spread.append(scan_id)
                self._changed.notify_all()
            self._kept.move_to_end(scan_id)
            return preview

    def _work(self) -> None:
        labeller: Labeller
        try:
            labeller = self._load()
        except Exception as error:
            log.exception("the label engine could not be loaded: painting goes on without previews")
            labeller = _Broken(error)
        self._loaded.set()
        while (job := self._next()) is not None:
            step, scan_id = job
            (self._spread if step == "spread" else self._update)(labeller, scan_id)

    def _next(self) -> tuple[Literal["spread", "update"], str] | None:
        """The next job; waits for one, None at the end."""
        with self._changed:
            while not self._stopping:
                if self._to_spread:
                    return "spread", self._to_spread.pop(0)
                if self._to_update:
                    # The last one that was asked for is the one somebody looks at.
                    return "update", self._to_update.pop()
                self._changed.wait()
        return None

    def _spread(self, labeller: Labeller, scan_id: str) -> None:
        begun = self._begin(scan_id)
        if begun is None:
            return
        try:
            made = labeller.spread(scan_id)
        except Exception as error:
            log.exception("the slices of %s could not be spread", scan_id)
            self._keep(scan_id, replace(begun, state="failed", sentence=_told(error)))
            return
        kept = self._keep(scan_id, _with(begun, made, "waiting"))
        with self._changed:
            if kept:
                self._to_update.append(scan_id)

    def _update(self, labeller: Labeller, scan_id: str) -> None:
        begun = self._begin(scan_id)
        if begun is None or begun.shown is None or begun.state != "waiting":
            return  # dropped, painted again, or asked for twice
        running = replace(begun, state="running")
        self._keep(scan_id, running)

        def pause() -> None:
            self._spread_waiting(labeller)
            still = self._begin(scan_id)
            if self._stopping or still is None or still.slices != begun.slices:
                raise _DroppedError

        try:
            made = labeller.update(scan_id, begun.shown, pause)
        except _DroppedError:
            return
        except Exception as error:
            log.exception("the prediction of %s could not be updated", scan_id)
            self._keep(scan_id, replace(running, state="failed", sentence=_told(error)))
            return
        state: UpdateState = "none" if made.shown is None else "done"
        seconds = round(time.monotonic() - begun.asked_s, 1)
        self._keep(scan_id, replace(_with(running, made, state), seconds=seconds))

    def _spread_waiting(self, labeller: Labeller) -> None:
        while True:
            with self._changed:
                if not self._to_spread or self._stopping:
                    return
                scan_id = self._to_spread.pop(0)
            self._spread(labeller, scan_id)

    def _begin(self, scan_id: str) -> Preview | None:
        """The preview as it stands; None if it was dropped."""
        with self._changed:
            return self._kept.get(scan_id)

    def _keep(self, scan_id: str, preview: Preview) -> bool:
        """Puts it in the place of the one before, unless that is made from newer slices by now."""
        with self._changed:
            now = self._kept.get(scan_id)
            if now is None or now.slices != preview.slices:
                return False
            self._kept[scan_id] = preview
            total = sum(_num_bytes(one) for one in self._kept.values())
            for other in [one for one in self._kept if one != scan_id]:
                if total <= self._most_bytes:
                    break
                total -= _num_bytes(self._kept.pop(other))
            return True


def _with(preview: Preview, made: Made, state: UpdateState) -> Preview:
    told = replace(preview, state=state, sentence=made.sentence, suggestion=made.suggestion)
    if made.shown is None:
        return told
    return replace(told, shown=made.shown, digest=secrets.token_hex(8))


def _told(error: Exception) -> str:
    if isinstance(error, OneSliceError):
        return str(error)
    return "This did not work; the reason is in the window where the page was started."


def _num_bytes(preview: Preview) -> int:
    if preview.shown is None:
        return 0
    return preview.shown.labels.nbytes + preview.shown.confidence.nbytes
