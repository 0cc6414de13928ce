"""Who may work on a store: many at once who add to it, or one alone who takes away.

An array is saved before the row that points to it. Whoever removes arrays that no row points to
must not come in between, nor into a round that still reads a scan.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager

from client.store.store import Store
from common.errors import StoreError

PAUSE_S = 0.05


@contextmanager
def among_others(store: Store) -> Iterator[None]:
    """Holds off whoever wants the store alone; waits while somebody has it so. May be nested."""
    with (store.folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def alone(store: Store, *, patience_s: float) -> Iterator[None]:
    """Has the store without others who add to it.

    Raises:
        StoreError: others were at work for longer than `patience_s`.
    """
    until = time.monotonic() + patience_s
    with (store.folder / "lock").open("a") as file:
        while True:
            try:
                # Asked again and again, not waited for: the same process may hold it nested.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= until:
                    raise StoreError(
                        f"{store.folder} is in use: a round, an ingest or a page that is saving "
                        f"went on for {patience_s:g} s; run the same command when it is over"
                    ) from None
                time.sleep(PAUSE_S)
        yield
