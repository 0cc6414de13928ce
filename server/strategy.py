"""Flower's strategies by name, with checks before them and a cast after them.

One NaN, a wrong shape or a sum of weights of zero breaks every built-in strategy, so replies are
checked first and only clean copies reach it. FedMedian and FedTrimmedAvg empty the records they are
given; FedAdam answers in float64; the order of replies changes the last bits of a mean.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    Krum,
)

from common.errors import BadReplyError
from common.messages import ARRAYS, METRICS, WEIGHT, arrays_to_record, record_to_arrays
from common.plan import StrategySettings
from common.updates import Arrays, LocalUpdate, check_arrays

LARGEST_NUM_EXAMPLES = 1_000_000


def build_strategy(settings: StrategySettings) -> FedAvg:
    """Flower's strategy that the plan names.

    It asks every hospital that is online, also if that is nobody; the round loop waits for them,
    since Flower's own wait for a number of nodes has no end.
    """
    nodes: dict[str, Any] = {"min_train_nodes": 0, "min_available_nodes": 0}
    match settings.name:
        case "FedAvg":
            return FedAvg(**nodes)
        case "FedProx":
            return FedProx(**nodes, proximal_mu=settings.proximal_mu)
        case "FedAdam":
            return FedAdam(**nodes, eta=settings.server_learning_rate)
        case "FedMedian":
            return FedMedian(**nodes)
        case "FedTrimmedAvg":
            return FedTrimmedAvg(**nodes, beta=settings.trimmed_share)
        case "Krum":
            return Krum(**nodes, num_malicious_nodes=settings.num_malicious)


def strategy_arrays(strategy: FedAvg) -> Arrays:
    """The strategy's own tensors between rounds; none but FedAdam has any."""
    if not isinstance(strategy, FedAdam):
        return {}
    moments = {"m_t": strategy.m_t or {}, "v_t": strategy.v_t or {}}
    return {
        f"{moment}/{name}": np.asarray(array)
        for moment, arrays in moments.items()
        for name, array in arrays.items()
    }


def restore_strategy(strategy: FedAvg, arrays: Arrays) -> None:
    """Gives a fresh strategy the tensors that `strategy_arrays` took from an earlier one."""
    if isinstance(strategy, FedAdam) and arrays:
        strategy.m_t = _below("m_t/", arrays)
        strategy.v_t = _below("v_t/", arrays)


def check_update(update: LocalUpdate, hospital: str, expected: Arrays, round_number: int) -> None:
    """Refuses a reply that must not reach the strategy; `expected` is what the round trains.

    Raises:
        BadReplyError: it speaks for another hospital or round, its tensors are not those that were
            asked for, or its counts are beyond sense.
    """
    note = update.note
    if note.hospital != hospital:
        raise BadReplyError(f"signed {note.hospital!r}, came from {hospital!r}")
    if note.round != round_number:
        raise BadReplyError(f"answers round {note.round}, asked was round {round_number}")
    if note.num_examples > LARGEST_NUM_EXAMPLES:
        raise BadReplyError(f"claims {note.num_examples} scans; at most {LARGEST_NUM_EXAMPLES}")
    if note.num_examples == 0:
        if update.arrays:
            raise BadReplyError("sent a model trained on no scan")
        return
    check_arrays(update.arrays, expected)


def fewest_models(settings: StrategySettings) -> int:
    """How many models the strategy needs to do what the plan says."""
    match settings.name:
        case "Krum":
            return 2 * settings.num_malicious + 3
        case "FedTrimmedAvg":
            fewest = math.ceil(1 / settings.trimmed_share)
            # 49 times the double nearest to 1/49 is less than 1, and Flower rounds down.
            return fewest + (int(settings.trimmed_share * fewest) < 1)
        case _:
            return 1


def average(
    strategy: FedAvg,
    replies: Mapping[str, tuple[Message, LocalUpdate]],
    current: Arrays,
    round_number: int,
) -> Arrays:
    """The strategy's mean of checked replies, in the dtypes of `current`.

    `replies` by hospital, each message with what was read from it; those without examples are left
    out. Without any the model stays. The order of hospitals is that of their names.
    """
    clean = []
    for _, (message, update) in sorted(replies.items()):
        if update.note.num_examples > 0:
            message.content = _clean_content(update)
            clean.append(message)
    if not clean:
        return current
    record, _ = strategy.aggregate_train(round_number, clean)
    if record is None:
        return current
    mean = record_to_arrays(record)
    return {name: mean[name].astype(array.dtype) for name, array in current.items()}


def _clean_content(update: LocalUpdate) -> RecordDict:
    """Only the tensors and their weight: nothing else may reach the strategy.

    A record holds bytes of its own, so a strategy that empties it leaves the update whole.

    Krum compares models tensor by tensor in the order they come in, so they come in by name.
    """
    by_name = dict(sorted(update.arrays.items()))
    weight = MetricRecord({WEIGHT: update.note.num_examples})
    return RecordDict({ARRAYS: arrays_to_record(by_name), METRICS: weight})


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
