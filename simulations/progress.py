"""How long jobs say how far they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable


@runtime_checkable
class Progress(Protocol):
    """Told what is being done, how much of it is done, and out of how much."""

    def __call__(self, what: str, done: int, total: int) -> None:
        """Shows it."""
        ...


def no_progress(what: str, done: int, total: int) -> None:
    """Shows nothing."""


def counted(progress: Progress, what: str, total: int) -> Callable[[object], None]:
    """A function that counts its calls as progress of `what`."""
    done = 0

    def count(_: object) -> None:
        nonlocal done
        done += 1
        progress(what, done, total)

    if total > 0:
        progress(what, 0, total)
    return count


@contextmanager
def bars_on_terminal() -> Iterator[Progress]:
    """One bar per kind of work on the error stream, with the time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:
        known = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in known:
                known[what] = bars.add_task(what, total=total)
            bars.update(known[what], completed=done, total=total)

        yield show
