"""A round's time: training may stop after any step, everything else is whole or not at all."""

import time
from collections.abc import Iterator

import pytest

from client.learning.round_clock import NO_LIMIT, OutOfTimeError, RoundClock


def over() -> RoundClock:
    return RoundClock(time.monotonic() - 1)


def test_without_a_limit_there_is_always_time() -> None:
    NO_LIMIT.check()
    assert not NO_LIMIT.is_over
    assert list(NO_LIMIT.until_over("abc")) == list(NO_LIMIT.each_in_time("abc")) == ["a", "b", "c"]
    assert NO_LIMIT.share(0.1) is NO_LIMIT


def test_training_gets_what_there_was_time_for() -> None:
    def steps() -> Iterator[int]:
        for step in range(100):
            if step == 2:
                time.sleep(0.3)
            yield step

    clock = RoundClock(time.monotonic() + 0.2)
    assert list(clock.until_over(steps())) == [0, 1]
    assert list(over().until_over("abc")) == []


def test_whole_work_is_broken_off_between_two_scans() -> None:
    scans = RoundClock(time.monotonic() + 0.2).each_in_time(["a", "b", "c"])
    assert [next(scans), next(scans)] == ["a", "b"]
    time.sleep(0.3)
    with pytest.raises(OutOfTimeError, match="allow more seconds_per_round or longer hours"):
        next(scans)
    load = over().in_time(str.upper)
    with pytest.raises(OutOfTimeError, match="was over"):
        load("a")
    assert NO_LIMIT.in_time(str.upper)("a") == "A"


def test_a_share_of_the_time_is_over_before_the_rest() -> None:
    whole = RoundClock(time.monotonic() + 10)
    part = whole.share(0.5)
    assert part.ends_at_s is not None
    assert part.ends_at_s == pytest.approx(time.monotonic() + 5, abs=1)
    assert over().share(0.5).is_over
