"""The forgetting ledger: which hospital lost how much on which task, in which round.

Made from what the hospitals say about the models that come in, on their held-back slices, so it
knows what each of them has lost without any full label. A row belongs to the round that made the
model, not to the one in which the hospital answered.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from common.plan import FederationPlan
from common.settings_file import Settings
from common.updates import Note, TaskScore
from server.round_state import RoundRecord, RoundState

# A best on fewer than half of the slices that there are now was another measurement.
OUTGROWN = 2


class LedgerRow(Settings):
    """One hospital's score of a round's models on one task, and the best up to there.

    `now` is the Dice of this round, `loss` by how much it fell since `best_round` over the classes
    that both were scored on, 0 if this is the best, and `best` the sum of the two. `lost_by_class`
    names the classes that are below a best of their own.
    """

    round: int
    hospital: str
    task: str
    best: float
    best_round: int
    now: float
    loss: float
    slices: int
    lost_by_class: dict[str, float] = {}


class LeftOut(Settings):
    """A hospital that the ledger cannot judge, on one task or (none) on any, and why."""

    hospital: str
    task: str | None
    why: str


class Ledger(Settings):
    """A row for every score on `least_slices` or more, ordered by round, hospital and task."""

    least_slices: int
    rows: tuple[LedgerRow, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def losses(self) -> tuple[LedgerRow, ...]:
        """The rows of which something was lost."""
        return tuple(row for row in self.rows if row.loss > 0)

    @property
    def newest(self) -> tuple[LedgerRow, ...]:
        """The rows of the newest round that anybody has scored."""
        last = self.rows[-1].round if self.rows else 0
        return tuple(row for row in self.rows if row.round == last)


@dataclass(frozen=True)
class LargestLoss:
    """A hospital's worst round on a task, and where it stands by its newest score."""

    worst: LedgerRow
    newest: LedgerRow


@dataclass(frozen=True)
class Best:
    """The best score so far: the Dice of each class, the round that reached it, and the slices."""

    dice: Mapping[str, float]
    round: int
    slices: int


# By hospital, task and class; without a class: the mean over the task's classes.
Key = tuple[str, str, str | None]
Bests = Mapping[Key, Best]
JudgedScore = tuple[str, TaskScore]


def forgetting_ledger(plan: FederationPlan, state: RoundState) -> Ledger:
    """The ledger of all rounds that were scored, each against the best of all before it.

    The fresh weights of round 0, and rounds of self-learning, which leave them as they are, have
    nothing to lose.
    """
    least = plan.release.least_slices
    rows: list[LedgerRow] = []
    bests: Bests = {}
    for number, record in scored_rounds(plan, state):
        scores = judged_scores(record, least)
        rows += rows_of_round(number, scores, bests)
        bests = with_better(bests, number, scores)
    return Ledger(least_slices=least, rows=tuple(rows), left_out=_left_out(plan, state))


def scored_rounds(
    plan: FederationPlan, state: RoundState
) -> Iterator[tuple[int, RoundRecord | None]]:
    """Each round that trained the segmenter, with the record of its scores if they have arrived."""
    for number in range(plan.correspondence.rounds + 1, state.round + 1):
        yield number, state.scores_of(number)


def judged_scores(record: RoundRecord | None, least_slices: int) -> list[JudgedScore]:
    """Each hospital's scores on enough slices, by hospital and task."""
    notes: tuple[Note, ...] = record.notes if record else ()
    scores = [(note.hospital, score) for note in notes for score in note.scores]
    enough = [(name, one) for name, one in scores if one.dice and one.cases >= least_slices]
    return sorted(enough, key=lambda pair: (pair[0], pair[1].task))


def rows_of_round(number: int, scores: Sequence[JudgedScore], bests: Bests) -> list[LedgerRow]:
    """What a round's scores have lost against `bests`."""
    rows = []
    for hospital, score in scores:
        found = dict(_with_keys(number, hospital, score))
        best = {key: _better(bests.get(key), now) for key, now in found.items()}
        losses = {key: _loss(best[key], now) for key, now in found.items()}
        whole = (hospital, score.task, None)
        now = float(np.mean(list(found[whole].dice.values())))
        rows.append(
            LedgerRow(
                round=number,
                hospital=hospital,
                task=score.task,
                best=now + losses[whole],
                best_round=best[whole].round,
                now=now,
                loss=losses[whole],
                slices=score.cases,
                lost_by_class={key[2]: loss for key, loss in losses.items() if key[2] and loss > 0},
            )
        )
    return rows


def with_better(bests: Bests, number: int, scores: Sequence[JudgedScore]) -> Bests:
    """`bests` with a round's scores where they are better."""
    found = [pair for name, score in scores for pair in _with_keys(number, name, score)]
    return {**bests, **{key: _better(bests.get(key), now) for key, now in found}}


def largest_losses(ledger: Ledger) -> tuple[LargestLoss, ...]:
    """One per hospital and task that ever lost something, the largest first."""
    worst: dict[tuple[str, str], LedgerRow] = {}
    newest: dict[tuple[str, str], LedgerRow] = {}
    for row in ledger.rows:
        key = (row.hospital, row.task)
        newest[key] = row
        if row.loss > (worst[key].loss if key in worst else 0):
            worst[key] = row
    found = [LargestLoss(row, newest[key]) for key, row in worst.items()]
    return tuple(sorted(found, key=lambda one: -one.worst.loss))


def loss_sentence(row: LedgerRow) -> str:
    """A row for people."""
    return (
        f"{row.hospital} lost {row.loss:.3f} on {row.task} ({row.best:.3f} in round "
        f"{row.best_round}, now {row.now:.3f} on {row.slices} slices)"
    )


def left_out_sentence(one: LeftOut) -> str:
    """The same of a hospital that is not judged."""
    on_task = f" on {one.task}" if one.task else ""
    return f"{one.hospital} is not judged{on_task}: it {one.why}"


def _with_keys(number: int, hospital: str, score: TaskScore) -> Iterator[tuple[Key, Best]]:
    """The score of the task and of each class, under its key."""
    yield (hospital, score.task, None), Best(score.dice, number, score.cases)
    for name, dice in score.dice.items():
        yield (hospital, score.task, name), Best({name: dice}, number, score.cases)


def _better(before: Best | None, now: Best) -> Best:
    if before is None or OUTGROWN * before.slices < now.slices or _loss(before, now) <= 0:
        return now
    return before


def _loss(best: Best, now: Best) -> float:
    """By how much the mean fell over the classes that both were scored on.

    Which those are, only the painting says: a slice that was painted, corrected or withdrawn since
    makes no loss of a class that one of them lacks.
    """
    shared = best.dice.keys() & now.dice.keys()
    return float(np.mean([best.dice[name] - now.dice[name] for name in sorted(shared)] or [0.0]))


def _left_out(plan: FederationPlan, state: RoundState) -> tuple[LeftOut, ...]:
    heard: dict[str, list[Note]] = {name: [] for name in sorted(state.hospitals)}
    for _, record in scored_rounds(plan, state):
        for note in record.notes if record else ():
            heard.setdefault(note.hospital, []).append(note)
    least = plan.release.least_slices
    return tuple(one for name, notes in heard.items() for one in _why_left_out(name, notes, least))


def _why_left_out(hospital: str, notes: Sequence[Note], least: int) -> list[LeftOut]:
    if not notes:
        return [LeftOut(hospital=hospital, task=None, why="has not scored any round")]
    if "scores" in notes[-1].withheld:
        return [LeftOut(hospital=hospital, task=None, why="keeps its scores back")]
    most: dict[str, int] = {}
    for score in (score for note in notes for score in note.scores):
        most[score.task] = max(most.get(score.task, 0), score.cases)
    if not most:
        why = "has sent no score: nothing is painted on its held-back scans, or it stayed out"
        return [LeftOut(hospital=hospital, task=None, why=why)]
    few = {task: slices for task, slices in most.items() if slices < least}
    return [
        LeftOut(hospital=hospital, task=task, why=f"has {_slices(slices)}, fewer than {least}")
        for task, slices in few.items()
    ]


def _slices(number: int) -> str:
    return "1 slice" if number == 1 else f"{number} slices"
