"""Independent jobs at once on one machine, by Ray."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from common.errors import SettingsError
from common.quiet import QUIET

Item = TypeVar("Item")
Result = TypeVar("Result")


def run_in_parallel(
    job: Callable[[Item], Result], items: Sequence[Item], at_once: int
) -> Iterator[tuple[Item, Result | str]]:
    """Each item with the job's result, as they end; or with why its process died.

    At most `at_once` run at a time, each in a process of its own with one thread.

    Raises:
        SettingsError: Ray is not installed.
    """
    # Ray takes seconds to load and is an extra; only who asks for it needs it.
    try:
        import ray  # noqa: PLC0415
    except ImportError:
        raise SettingsError(
            'running in parallel needs Ray: pip install "oneslice[simulation]"'
        ) from None
    os.environ.update(QUIET)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local",
        num_cpus=at_once,
        num_gpus=torch.cuda.device_count(),
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        # What died would die again, as often as Ray tries.
        gpus = share_of_gpus(torch.cuda.device_count(), at_once)
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0)(job)
        waiting = {remote.remote(item): item for item in items}
        while waiting:
            done, _ = ray.wait(list(waiting))
            for reference in done:
                item = waiting.pop(reference)
                try:
                    yield item, ray.get(reference)
                except ray.exceptions.RayError as error:
                    yield item, str(error).strip().splitlines()[-1]
    finally:
        ray.shutdown()


def share_of_gpus(gpus: int, at_once: int) -> float:
    """The part of a GPU for each of the processes that run at once, so that none has to wait.

    Ray hides every GPU from a process that asks for no part of one.
    """
    return 1 / math.ceil(at_once / gpus) if gpus else 0.0
