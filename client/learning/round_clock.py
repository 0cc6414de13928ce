"""How long a round may still go on at this hospital."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from common.errors import OneSliceError

Item = TypeVar("Item")
Key = TypeVar("Key")
Value = TypeVar("Value")


class OutOfTimeError(OneSliceError):
    """The round's time was over before there was anything to send."""


@dataclass(frozen=True)
class RoundClock:
    """When a round has to stop, as told by the monotonic clock; None: it has all the time.

    Time is looked at between two scans and between two training steps.
    """

    ends_at_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the round has to stop."""
        return self.ends_at_s is not None and time.monotonic() >= self.ends_at_s

    def share(self, part: float) -> "RoundClock":
        """The clock of the next step, which gets a part of the time that is left."""
        if self.ends_at_s is None:
            return self
        now = time.monotonic()
        return RoundClock(now + part * max(0.0, self.ends_at_s - now))

    def until_over(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, as long as there is time: for training, which may stop after any step."""
        for item in items:
            if self.is_over:
                return
            yield item

    def in_time(self, load: Callable[[Key], Value]) -> Callable[[Key], Value]:
        """`load`, raising OutOfTimeError if it is called too late: for work that must be whole."""

        def load_in_time(key: Key) -> Value:
            self.check()
            return load(key)

        return load_in_time

    def each_in_time(self, items: Iterable[Item]) -> Iterator[Item]:
        """The items, raising OutOfTimeError in between when the time is over."""
        for item in items:
            self.check()
            yield item

    def check(self) -> None:
        """Does nothing while there is time.

        Raises:
            OutOfTimeError: there is none left.
        """
        if self.is_over:
            raise OutOfTimeError(
                "the time that the hospital's policy gives a round was over before its model was "
                "trained; what was made so far is kept, so the next round gets further: allow more "
                "seconds_per_round or longer hours"
            )


NO_LIMIT = RoundClock()
