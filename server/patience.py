"""A quorum that is lost is waited for, as long as the plan has patience."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from common.errors import QuorumError
from server.progress import OnProgress, Step

T = TypeVar("T")
log = logging.getLogger(__name__)
# Between two tries.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 5.0, 60.0


def with_patience(
    patience_s: float, number: int, on_progress: OnProgress, attempt: Callable[[], T]
) -> T:
    """What `attempt` returns, tried again while the patience with a lost quorum lasts.

    `on_progress` is told before each pause that round `number` waits, for whom and why.

    Raises:
        QuorumError: the last try's, once the patience is over.
    """
    pause_s = FIRST_PAUSE_S
    until: float | None = None
    while True:
        try:
            return attempt()
        except QuorumError as error:
            until = until or time.monotonic() + patience_s
            left_s = until - time.monotonic()
            if left_s <= 0:
                raise
            log.warning("tried again in %.0f s: %s", min(pause_s, left_s), error)
            on_progress(Step("waiting", number, error.missing, f"tries again: {error}"))
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
