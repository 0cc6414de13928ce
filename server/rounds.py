"""The federation's rounds, from the first or from where a checkpoint left off.

Flower's `Strategy.start` cannot resume, so the loop is ours, over the strategy's public
`configure_train` and `aggregate_train`. Saved first, then reported: a tracker that fails must not
lose a round.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from flwr.app import ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg

from common.clipping import update_norm
from common.errors import CheckpointError, QuorumError
from common.messages import arrays_to_record, request_to_content
from common.plan import FederationPlan
from common.printable import printable
from common.updates import (
    CORRESPONDENCE,
    Action,
    Arrays,
    Note,
    RoundRequest,
    trained_in,
)
from common.wire import bytes_by_network
from server.answers import Answers, drop, sort_out
from server.asking import (
    GREETING_S,
    ask,
    greet,
    nobody_told,
    wait_for_hospitals,
    who_stays_out,
)
from server.checkpoints import load_state, save_state
from server.patience import with_patience
from server.private_mean import spent_epsilon
from server.progress import OnProgress, Step, unheard
from server.round_state import RoundRecord, RoundState
from server.strategy import (
    average,
    build_strategy,
    restore_strategy,
    strategy_arrays,
)

OnRound = Callable[[RoundState], None]
OnGreeting = Callable[[Note], None]
log = logging.getLogger(__name__)
PROXIMAL_MU = "proximal-mu"  # as Flower's FedProx calls it
DOING: dict[Action, str] = {"train": "hospitals train", "score": "hospitals score the models"}


@dataclass(frozen=True)
class Federation:
    """What every round of a federation needs.

    Attributes:
        grid: Flower's connection to the hospitals.
        plan: What to do.
        strategy: The plan's strategy, with the moments of the rounds before.
        on_progress: Told of every step.
        on_greeting: Told what hospitals greet with.
    """

    grid: Grid
    plan: FederationPlan
    strategy: FedAvg
    on_progress: OnProgress = unheard
    on_greeting: OnGreeting = nobody_told


def run_federation(
    grid: Grid,
    plan: FederationPlan,
    checkpoints: Path,
    on_round: OnRound,
    on_progress: OnProgress = unheard,
    on_greeting: OnGreeting = nobody_told,
) -> RoundState:
    """Runs all rounds that are still to do, then has the final models scored.

    Args:
        grid: Flower's connection to the hospitals.
        plan: what to do.
        checkpoints: where rounds are saved and resumed from.
        on_round: called with the saved state after every round and after the closing scores.
        on_progress: called with every step in between.
        on_greeting: called with what each hospital greets with.

    Raises:
        QuorumError: too few hospitals joined, or too few answers of a round counted, and the
            plan's patience is over. The closing scores then do with the answers that there are.
        CheckpointError: a round cannot be saved or resumed.
        SettingsError: the plan wants noise, and what reckons its epsilon is not installed.
    """
    state = load_state(checkpoints, plan) or _begin(plan)
    if state.closing is not None:
        on_progress(Step("finished", state.round))
        return state
    spent_epsilon(plan.privacy, 0)  # before anybody is asked: it must be able to reckon
    strategy = build_strategy(plan.strategy)
    restore_strategy(strategy, state.strategy_arrays)
    federation = Federation(grid, plan, strategy, on_progress, on_greeting)
    patience = partial(with_patience, plan.limits.patience_s)
    hospitals: dict[int, str] = {}
    if state.round < plan.num_rounds:
        hospitals = patience(state.round, on_progress, partial(_wait, federation, state.round))
    while state.round < plan.num_rounds:
        attempt = partial(_greet_and_run_round, federation, state, hospitals)
        hospitals, state = patience(state.round + 1, on_progress, attempt)
        save_state(checkpoints, state, plan)
        on_round(state)
    state = replace(state, closing=_closing_scores(federation, state, hospitals))
    save_state(checkpoints, state, plan)
    on_round(state)
    on_progress(Step("finished", state.round))
    return state


def _wait(federation: Federation, number: int) -> dict[int, str]:
    return wait_for_hospitals(
        federation.grid,
        federation.plan,
        lambda sentence: federation.on_progress(Step("waiting", number, (), sentence)),
        federation.on_greeting,
    )


def _greet_and_run_round(
    federation: Federation, state: RoundState, hospitals: dict[int, str]
) -> tuple[dict[int, str], RoundState]:
    """The hospitals that are online now, and the next state.

    A lost quorum leaves the strategy as it was: the same round may be asked again, and a hospital
    that has answered it returns the reply that it stored.
    """
    there, federation = _greet(federation, hospitals)
    return there, run_round(federation, state, there)


def _greet(federation: Federation, hospitals: dict[int, str]) -> tuple[dict[int, str], Federation]:
    """The hospitals that are online now, and a federation that tells who else stays out."""
    refusals: list[str] = []
    told = (refusals.append, federation.on_greeting)
    there = greet(federation.grid, federation.plan, hospitals, GREETING_S, *told)

    def tell(step: Step) -> None:
        sentence = step.sentence + who_stays_out(refusals)
        federation.on_progress(replace(step, sentence=sentence))

    return there, replace(federation, on_progress=tell)


def _closing_scores(
    federation: Federation, state: RoundState, hospitals: dict[int, str]
) -> RoundRecord:
    """How the final models score, by a quorum; by those that are there once patience is over."""
    limits, found = federation.plan.limits, list[RoundRecord]()

    def attempt() -> RoundRecord:
        known = hospitals or _wait(federation, state.round)
        there, telling = _greet(federation, known)
        record = score_models(telling, state, there)
        found.append(record)
        _require_answers(federation.plan, record)
        return record

    try:
        return with_patience(limits.patience_s, state.round, federation.on_progress, attempt)
    except QuorumError as error:
        log.warning("finishes with the scores that there are: %s", error)
    best = max(found, key=lambda record: len(record.notes), default=None)
    return best or score_models(federation, state, {})


def _begin(plan: FederationPlan) -> RoundState:
    if plan.extends is not None:
        raise CheckpointError(
            f"expected the models of {plan.extends.federation} among the run's checkpoints, which "
            "`begin_from_earlier` puts there: a plan that goes on never begins with fresh weights"
        )
    return first_state(plan)


def first_state(plan: FederationPlan) -> RoundState:
    """Round 0: fresh weights, drawn from the plan's seed."""
    # Torch and MONAI take seconds to load; a server that resumes never needs them.
    from common.networks.correspondence import build_correspondence  # noqa: PLC0415
    from common.networks.embedding import build_embedding  # noqa: PLC0415
    from common.networks.unet import build_networks, networks_to_arrays  # noqa: PLC0415

    arrays = networks_to_arrays({**build_networks(plan), **build_embedding(plan)})
    if plan.correspondence.rounds > 0:
        network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
        arrays |= networks_to_arrays({CORRESPONDENCE: network})
    return RoundState(0, arrays, {}, ())


def run_round(federation: Federation, state: RoundState, hospitals: dict[int, str]) -> RoundState:
    """One round: ask all, check the answers, average those that hold.

    Raises:
        QuorumError: too few answers counted.
    """
    plan, strategy = federation.plan, federation.strategy
    number = state.round + 1
    if plan.is_self_learning(number):
        # The plan's own strategy keeps moments; it must meet the tensors of the stream only.
        strategy = build_strategy(plan.strategy_of_round(number))
        federation = replace(federation, strategy=strategy)
    record, answers = _ask_round(federation, state, hospitals, "train")
    trained = sorted(name for name, (_, update) in answers.items() if update.note.num_examples > 0)
    _require_quorum(plan, record, len(answers), len(trained))
    federation.on_progress(Step("averaging", number))
    started = time.perf_counter()
    # FedAdam corrects for how young its moments are, so it counts its own rounds.
    own_round = number - max(plan.correspondence.rounds, plan.begins_after)
    before = trained_in(plan, number, state.arrays)
    weighing = plan.strategy_of_round(number).weighing
    norms = {name: update_norm(answers[name][1].arrays, before) for name in trained}
    mean = average(strategy, answers, before, own_round, weighing=weighing, privacy=plan.privacy)
    arrays = {**state.arrays, **mean}
    measured = {
        "averaged": tuple(trained),
        "update_norms": norms,
        "epsilon": spent_epsilon(plan.privacy, state.num_noisy_means + 1),
        "seconds": {**record.seconds, "aggregate": time.perf_counter() - started},
    }
    record = record.model_copy(update=measured)
    return RoundState(number, arrays, strategy_arrays(strategy), (*state.history, record))


def score_models(
    federation: Federation, state: RoundState, hospitals: dict[int, str]
) -> RoundRecord:
    """How the hospitals score the models as they are; nobody trains."""
    record, _ = _ask_round(federation, state, hospitals, "score")
    return record


def _ask_round(
    federation: Federation, state: RoundState, hospitals: dict[int, str], action: Action
) -> tuple[RoundRecord, Answers]:
    plan = federation.plan
    number = state.round + (action == "train")
    least = plan.training.judged_slices
    held_back = state.history[-1].held_back_dice(least) if state.history else {}
    if plan.privacy.adds_noise:
        held_back = {}  # no noise covers scores, so none travel from one hospital to another
    request = RoundRequest(action=action, plan=plan, round=number, held_back_dice=held_back)
    trained, sent = trained_in(plan, number, state.arrays), _sent_down(plan, state, action)
    asked = [
        message
        for message in _make_messages(federation, request, trained, sent)
        if message.metadata.dst_node_id in hospitals
    ]

    def tell(waiting: set[int]) -> None:
        names = tuple(sorted(hospitals[node] for node in waiting))
        federation.on_progress(Step("asking", number, names, DOING[action]))

    started = time.perf_counter()
    replies = ask(federation.grid, asked, plan.limits.deadline_s, tell)
    waited_s = time.perf_counter() - started
    answers, bytes_up, dropped = sort_out(hospitals, replies, trained, request)
    dropped += [
        drop(name, "offline", "was not online when the round began")
        for name in state.hospitals - set(hospitals.values())
    ]
    record = RoundRecord(
        round=number,
        stage=plan.stage_of_round(max(number, 1)),
        notes=tuple(update.note for _, (_, update) in sorted(answers.items())),
        dropped=tuple(sorted(dropped, key=lambda one: one.hospital)),
        bytes_down=bytes_by_network(sent),
        bytes_up=dict(sorted(bytes_up.items())),
        seconds={"wait": waited_s},
    )
    return record, answers


def _sent_down(plan: FederationPlan, state: RoundState, action: Action) -> Arrays:
    """Self-learning needs no other network; labels are spread with the one that it leaves."""
    if action == "train" and plan.is_self_learning(state.round + 1):
        return trained_in(plan, state.round + 1, state.arrays)
    return state.arrays


def _make_messages(
    federation: Federation, request: RoundRequest, trained: Arrays, sent: Arrays
) -> list[Message]:
    """One message per node with the tensors `sent`; the strategy sees only those that come back."""
    grid, strategy = federation.grid, federation.strategy
    messages = list(
        strategy.configure_train(request.round, arrays_to_record(trained), ConfigRecord(), grid)
    )
    if not messages:
        return []
    # What FedProx adds for the hospitals travels as part of our own request.
    config = messages[0].content[strategy.configrecord_key]
    asked = request.model_copy(update={"proximal_mu": config.get(PROXIMAL_MU, 0.0)})
    content = request_to_content(asked, sent)
    for message in messages:
        message.content = content
    return messages


def _require_quorum(
    plan: FederationPlan, record: RoundRecord, num_answers: int, num_models: int
) -> None:
    strategy = plan.strategy_of_round(record.round)
    needed = strategy.fewest_models
    if num_answers >= plan.limits.quorum and num_models >= needed:
        return
    raise QuorumError(
        f"round {record.round}: {num_answers} answers and {num_models} models counted, needed are "
        f"{plan.limits.quorum} answers and {needed} models for {strategy.name} ({_why(record)}); "
        "the rounds before are saved: run the same command again when the hospitals are back",
        missing=tuple(one.hospital for one in record.dropped),
    )


def _require_answers(plan: FederationPlan, closing: RoundRecord) -> None:
    if len(closing.notes) < plan.limits.quorum:
        raise QuorumError(
            f"closing scores: {len(closing.notes)} answers counted, needed are "
            f"{plan.limits.quorum} ({_why(closing)})",
            missing=tuple(one.hospital for one in closing.dropped),
        )


def _why(record: RoundRecord) -> str:
    reasons = [f"{one.hospital}: {one.reason}" for one in record.dropped]
    reasons += [f"{note.hospital}: {note.reason}" for note in record.notes if note.reason]
    return printable("; ".join(reasons)) or "none dropped"
