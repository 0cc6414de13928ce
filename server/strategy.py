"""Flower's strategies by name, with checks before them and a cast after them.

One NaN, a wrong shape or a sum of weights of zero breaks every built-in strategy, so replies are
checked first and only clean copies reach it. FedMedian and FedTrimmedAvg empty the records they are
given; FedAdam answers in float64; the order of replies changes the last bits of a mean.
"""

from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    Bulyan,
    FedAdam,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
)
from flwr.serverapp.strategy.strategy import Strategy

from common.clipping import update_norm
from common.errors import BadReplyError
from common.messages import ARRAYS, METRICS, WEIGHT, arrays_to_record, record_to_arrays
from common.privacy import Privacy
from common.strategy import StrategySettings, Weighing
from common.updates import Arrays, LocalUpdate, check_arrays
from server.private_mean import unguessable_noise, with_privacy

NO_PRIVACY = Privacy()
LARGEST_NUM_EXAMPLES = 1_000_000


def build_strategy(settings: StrategySettings) -> FedAvg:
    """Flower's strategy that the plan names.

    It asks every hospital that is online, also if that is nobody; the round loop waits for them,
    since Flower's own wait for a number of nodes has no end.
    """
    nodes: dict[str, Any] = {"min_train_nodes": 0, "min_available_nodes": 0}
    strategy: FedAvg
    match settings.name:
        case "FedAvg":
            strategy = FedAvg(**nodes)
        case "FedProx":
            strategy = FedProx(**nodes, proximal_mu=settings.proximal_mu)
        case "FedAdam":
            strategy = FedAdam(**nodes, eta=settings.server_learning_rate)
        case "FedMedian":
            strategy = FedMedian(**nodes)
        case "FedTrimmedAvg":
            strategy = FedTrimmedAvg(**nodes, beta=settings.trimmed_share)
        case "Krum":
            strategy = Krum(**nodes, num_malicious_nodes=settings.num_malicious)
        case "MultiKrum":
            selected = settings.num_selected
            malicious = settings.num_malicious
            strategy = MultiKrum(
                **nodes, num_malicious_nodes=malicious, num_nodes_to_select=selected
            )
        case "Bulyan":
            strategy = Bulyan(**nodes, num_malicious_nodes=settings.num_malicious)
    return strategy


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


def check_update(
    update: LocalUpdate,
    hospital: str,
    expected: Arrays,
    round_number: int,
    *,
    must_move: bool = False,
) -> None:
    """Refuses a reply that must not reach the strategy; `expected` is what the round trains.

    `must_move`: a model that is the one sent out to the bit is refused, too.

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
    # Flower's clipping divides by the length of the update.
    if must_move and update_norm(update.arrays, expected) == 0:
        raise BadReplyError("sent the model back as it was sent out: it learned nothing")


def average(
    strategy: FedAvg,
    replies: dict[str, tuple[Message, LocalUpdate]],
    current: Arrays,
    round_number: int,
    *,
    weighing: Weighing = "scans",
    privacy: Privacy = NO_PRIVACY,
) -> Arrays:
    """The strategy's mean of checked replies, in the dtypes of `current`.

    `replies` by hospital, each message with what was read from it; those without examples are left
    out. They are taken out one by one, since models of all hospitals twice are too much memory.
    Without any the model stays. The order of hospitals is that of their names. With noise all
    weigh the same: it is measured for that.
    """
    exact = privacy.clipping_norm is not None or isinstance(strategy, MultiKrum | Bulyan)
    equal = weighing == "equal" or privacy.adds_noise
    clean = _take_clean(replies, equal=equal, exact=exact)
    if not clean:
        return current
    combining: Strategy = strategy
    if privacy.clipping_norm is not None:
        received = _to_record(current, exact=exact)
        combining = with_privacy(strategy, privacy, received, len(clean))
    with unguessable_noise():
        record, _ = combining.aggregate_train(round_number, clean)
    if record is None:
        return current
    mean = record_to_arrays(record)
    return {
        name: mean[name].astype(array.dtype).reshape(array.shape) for name, array in current.items()
    }


def _take_clean(
    replies: dict[str, tuple[Message, LocalUpdate]], *, equal: bool, exact: bool
) -> list[Message]:
    """The messages with nothing but what the strategy needs, by the hospitals' names."""
    clean = []
    for hospital in sorted(replies):
        message, update = replies.pop(hospital)
        if update.note.num_examples > 0:
            weight = 1 if equal else update.note.num_examples
            message.content = _clean_content(update.arrays, weight, exact=exact)
            clean.append(message)
    return clean


def _clean_content(arrays: Arrays, weight: int, *, exact: bool) -> RecordDict:
    """Only the tensors and their weight: nothing else may reach the strategy."""
    metrics = MetricRecord({WEIGHT: weight})
    return RecordDict({ARRAYS: _to_record(arrays, exact=exact), METRICS: metrics})


def _to_record(arrays: Arrays, *, exact: bool) -> ArrayRecord:
    """A record with bytes of its own, so a strategy that empties it leaves the arrays whole.

    By name: Krum and clipping compare models tensor by tensor in the order they come in. `exact`:
    in double precision. The distance of two models that are alike is less than the rounding of
    Krum's sums of squares of their weights, and the square of an update may be beyond single
    numbers at either end. And Flower's clipping, which multiplies in place, passes by numbers
    without axes: they get one.
    """
    by_name = dict(sorted(arrays.items()))
    if exact:
        by_name = {name: np.atleast_1d(array).astype(np.float64) for name, array in by_name.items()}
    return arrays_to_record(by_name)


def _below(prefix: str, arrays: Arrays) -> Arrays:
    return {
        name.removeprefix(prefix): array
        for name, array in arrays.items()
        if name.startswith(prefix)
    }
