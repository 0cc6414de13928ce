"""Whether the hospital's own policy lets a round happen, and on which terms.

Asked before anything is computed. Why a round may not happen stays at the hospital; the federation
is told one fixed sentence, whatever the reason.
"""

import time
from dataclasses import dataclass
from datetime import datetime

from client.learning.round_clock import NO_LIMIT, RoundClock
from client.policy import ALLOWS_ALL, Policy
from client.round_memory import estimate_memory_gb
from client.store.audit import count_models_sent
from client.store.status import count_annotated_scans
from client.store.store import Store
from common.errors import OneSliceError
from common.plan import FederationPlan, Task
from common.updates import Arrays, RoundRequest, trained_in

NOT_ALLOWED = "this hospital's policy does not allow the round"
STOPPED_EARLY = "training stopped at this hospital's time limit"


class NotAllowedError(OneSliceError):
    """The hospital's policy forbids the round; the text never leaves the hospital."""


@dataclass(frozen=True)
class Terms:
    """What a round has to keep to."""

    policy: Policy
    clock: RoundClock


FREE = Terms(ALLOWS_ALL, NO_LIMIT)


def admit(
    store: Store, request: RoundRequest, arrays: Arrays, policy: Policy, now: datetime
) -> Terms:
    """The terms of a round that may happen.

    Args:
        store: the hospital's.
        request: what is asked.
        arrays: the tensors that came with it.
        policy: the hospital's.
        now: local time.

    Raises:
        NotAllowedError: says which key of the policy forbids the round.
    """
    tasks = policy.allowed_tasks(_tasks_of(request))
    if not tasks:
        raise NotAllowedError(f"`tasks` names none of this round's: {list(policy.tasks or ())}")
    seconds_left = policy.seconds_left(now)
    if seconds_left == 0:
        raise NotAllowedError(f"it is {now:%H:%M}, outside of `hours` {list(policy.hours)}")
    _check_enough_scans(store, request, tasks, policy)
    _check_may_leave(request, arrays, policy)
    _check_memory(store, request, tasks, policy)
    limits = [one for one in (policy.seconds_per_round, seconds_left) if one is not None]
    return Terms(policy, RoundClock(time.monotonic() + min(limits) if limits else None))


def check_not_too_often(store: Store, plan: FederationPlan, policy: Policy) -> None:
    """Whether one more model may leave for a plan: approving it does not allow any number.

    Raises:
        NotAllowedError: as many as the plan has rounds have left, and as many more as are allowed.
    """
    rounds = plan.num_rounds - plan.begins_after
    most = rounds + policy.more_models
    sent = count_models_sent(store, plan.federation)
    if sent >= most:
        raise NotAllowedError(
            f"{sent} models have left for {plan.federation}, which has {rounds} rounds; "
            f"`more_models` allows {policy.more_models} more"
        )


def _tasks_of(request: RoundRequest) -> tuple[Task, ...]:
    """Whose scans the round would read: all tasks' in self-learning, else of the stages so far."""
    plan = request.plan
    if plan.is_self_learning(request.round):
        return plan.tasks
    return plan.tasks[: plan.stage_of_round(request.round) + 1]


def _check_enough_scans(
    store: Store, request: RoundRequest, tasks: list[Task], policy: Policy
) -> None:
    if request.plan.is_self_learning(request.round):
        return  # needs no annotation; the scans that it learns from are counted there
    annotated = count_annotated_scans(store, [task.name for task in tasks])
    if annotated < policy.min_annotated_scans:
        raise NotAllowedError(
            f"{annotated} scans are annotated, `min_annotated_scans` is "
            f"{policy.min_annotated_scans}"
        )


def _check_may_leave(request: RoundRequest, arrays: Arrays, policy: Policy) -> None:
    if request.action == "score" and "scores" not in policy.metrics:
        raise NotAllowedError("the round asks for scores alone, and `metrics` does not name them")
    wanted = trained_in(request.plan, request.round, arrays) if request.action == "train" else {}
    if not policy.allows_networks(wanted):
        raise NotAllowedError(
            f"the round sends {sorted({name.split('/')[0] for name in wanted})}, `networks` lets "
            f"{list(policy.networks)} leave"
        )


def _check_memory(store: Store, request: RoundRequest, tasks: list[Task], policy: Policy) -> None:
    if policy.memory_gb is None:
        return
    needed_gb = estimate_memory_gb(store, request, tasks)
    if needed_gb > policy.memory_gb:
        raise NotAllowedError(
            f"the round needs about {needed_gb:.1f} GB, `memory_gb` is {policy.memory_gb:g}"
        )
