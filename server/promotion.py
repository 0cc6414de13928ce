"""The release gate: which rounds may be given out, and why the others may not.

A function of the plan and of what happened, nothing else: asked again after a kill, or in another
process, it says the same.
"""

from collections.abc import Sequence

from common.plan import FederationPlan
from common.settings_file import Settings
from server.ledger import (
    Bests,
    JudgedScore,
    LedgerRow,
    judged_scores,
    loss_sentence,
    rows_of_round,
    with_better,
)
from server.round_state import RoundState


class Verdict(Settings):
    """Whether a round is promoted; `why_not` is empty if it is.

    `losses` are those beyond the plan's limit, the largest first. `unheard` are hospitals that have
    a score to lose and gave none for this round, or none "on" one of their tasks: it may have cost
    them something.
    """

    round: int
    why_not: str = ""
    losses: tuple[LedgerRow, ...] = ()
    unheard: tuple[str, ...] = ()

    @property
    def is_promoted(self) -> bool:
        """Whether the round may be given out."""
        return not self.why_not


class ReleaseGate(Settings):
    """The gate's settings and what it says: the newest round that passed, and all that did not.

    `most_loss` none: there is no gate, and the newest round is the promoted one.
    """

    most_loss: float | None
    least_slices: int
    promoted_round: int | None
    refused: tuple[Verdict, ...] = ()
    unheard: tuple[str, ...] = ()


def judge_rounds(plan: FederationPlan, state: RoundState) -> tuple[Verdict, ...]:
    """One verdict for each round so far.

    A round is refused if some task of some hospital lost more than the plan's limit against the
    best of the rounds that were promoted before it: what was refused is no measure, and a slow
    decline adds up. A round that nobody has scored yet is refused for as long.
    """
    verdicts = [
        Verdict(round=number, why_not="self-learning: it trains no segmenter")
        for number in range(1, min(plan.correspondence.rounds, state.round) + 1)
    ]
    bests: Bests = {}
    for number in range(len(verdicts) + 1, state.round + 1):
        verdict = _judge(plan, state, number, bests)
        verdicts.append(verdict)
        if verdict.is_promoted and plan.release.most_loss is not None:
            scores = judged_scores(state.scores_of(number), plan.release.least_slices)
            bests = with_better(bests, number, scores)
    return tuple(verdicts)


def promoted_round(verdicts: Sequence[Verdict]) -> int | None:
    """The newest promoted round; None if there is none."""
    return next((one.round for one in reversed(verdicts) if one.is_promoted), None)


def release_gate(plan: FederationPlan, state: RoundState) -> ReleaseGate:
    """The gate's part of the report."""
    verdicts = judge_rounds(plan, state)
    newest = promoted_round(verdicts)
    return ReleaseGate(
        most_loss=plan.release.most_loss,
        least_slices=plan.release.least_slices,
        promoted_round=newest,
        refused=tuple(one for one in verdicts if not one.is_promoted),
        unheard=verdicts[newest - 1].unheard if newest is not None else (),
    )


def _judge(plan: FederationPlan, state: RoundState, number: int, bests: Bests) -> Verdict:
    limit = plan.release.most_loss
    if limit is None:
        return Verdict(round=number)
    record = state.scores_of(number)
    if record is None:
        after = "the closing scores" if number == plan.num_rounds else f"round {number + 1}"
        return Verdict(round=number, why_not=f"not scored yet: its scores come with {after}")
    least = plan.release.least_slices
    scores = judged_scores(record, least)
    if not scores:
        return Verdict(round=number, why_not=f"no hospital has scored it on {least} slices or more")
    rows = rows_of_round(number, scores, bests)
    losses = tuple(sorted((row for row in rows if row.loss > limit), key=lambda row: -row.loss))
    return Verdict(
        round=number,
        why_not=_why_not(losses, limit),
        losses=losses,
        unheard=_unheard(bests, scores),
    )


def _unheard(bests: Bests, scores: Sequence[JudgedScore]) -> tuple[str, ...]:
    heard = {(hospital, score.task) for hospital, score in scores}
    hospitals = {hospital for hospital, _ in heard}
    missing = {(hospital, task) for hospital, task, _ in bests} - heard
    return tuple(
        sorted({f"{name} on {task}" if name in hospitals else name for name, task in missing})
    )


def _why_not(losses: Sequence[LedgerRow], limit: float) -> str:
    if not losses:
        return ""
    more = f", and {len(losses) - 1} more" if len(losses) > 1 else ""
    return f"{loss_sentence(losses[0])}{more}; the limit is {limit:g}"
