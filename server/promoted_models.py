"""A round's models as they are given out, with a card that says what they cost whom."""

from datetime import UTC, datetime
from pathlib import Path

from common.errors import CheckpointError, ReleaseError
from common.plan import FederationPlan
from common.printable import printable
from common.released_models import MODELS, RECORD, write_release
from common.settings_file import Settings
from common.updates import TaskScore
from common.version import SOFTWARE
from common.whole_file import write_whole
from server.checkpoints import load_state, read_state
from server.ledger import LedgerRow, LeftOut, forgetting_ledger, left_out_sentence
from server.promotion import Verdict, judge_rounds, promoted_round
from server.round_state import RoundState
from server.run_folder import RunFolder

CARD = "card.json"
# Of each kind, when they are printed; the card has all.
MOST_LINES = 5


class ModelCard(Settings):
    """card.json: where the models come from, how good they are, and for whom they got worse.

    `despite` is why the gate kept the round back, if a person gave it out nevertheless. `losses`
    stand against the best of all rounds before. `left_out` and `unheard` are hospitals for which
    nothing is known: at all, or of this round. `not_later`: why no later round was taken.
    """

    federation: str
    round: int
    promoted_at: str
    despite: str
    scores: dict[str, tuple[TaskScore, ...]]
    losses: tuple[LedgerRow, ...]
    left_out: tuple[LeftOut, ...]
    unheard: tuple[str, ...]
    not_later: dict[int, str]
    software: str
    plan: FederationPlan


class PromotedModels(Settings):
    """A release's folder, which also has card.json; `is_new` if it was not there before.

    `registry`: what MLflow's registry was told.
    """

    folder: Path
    card: ModelCard
    is_new: bool
    registry: str = ""


def promote(folder: RunFolder, number: int | None, *, despite_losses: bool) -> PromotedModels:
    """Writes a round's release and its card to `folder`/promoted/round-00012.

    A round that was given out before is left as it is: its card says what was known then.

    Args:
        folder: the run's.
        number: the round; None: the newest that passed the plan's release gate.
        despite_losses: take a named round that did not pass, too; the card says so.

    Raises:
        ReleaseError: no round passed, or the named one did not.
        CheckpointError: there is no such round, it is not kept any more, or there is no room.
    """
    plan = folder.read_plan()
    state = load_state(folder.checkpoints, plan)
    if state is None:
        raise CheckpointError(f"{folder.path}: no round is saved yet")
    verdicts = judge_rounds(plan, state)
    verdict = _choose(plan, verdicts, number, despite_losses=despite_losses)
    target = folder.promoted / f"round-{verdict.round:05d}"
    try:
        if (target / CARD).exists():
            return _promoted_before(target, plan, verdict.round)
        models = _read_models(folder, plan, verdict.round)
        card = _card(plan, state, verdict, verdicts)
        write_release(target, models, plan, verdict.round)
        # Last: it says that what lies beside it is whole.
        write_whole(target / CARD, card.model_dump_json(indent=2))
    except OSError as error:
        raise CheckpointError(
            f"{target} cannot be written ({error.strerror}): mend that and run the command again"
        ) from error
    return PromotedModels(folder=target, card=card, is_new=True)


def _promoted_before(target: Path, plan: FederationPlan, number: int) -> PromotedModels:
    if not (target / RECORD).exists():  # given out by a version that wrote none
        write_release(target, (target / MODELS).read_bytes(), plan, number)
    return PromotedModels(folder=target, card=read_card(target), is_new=False)


def read_card(folder: Path) -> ModelCard:
    """What card.json says of a promoted round.

    Raises:
        ReleaseError: it is damaged, or of another version.
    """
    path = folder / CARD
    try:
        return ModelCard.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReleaseError(
            f"{path} cannot be read ({str(error).splitlines()[0]}): delete it and run `oneslice "
            "coordinator promote` for this round again"
        ) from None


def promotion_text(done: PromotedModels) -> str:
    """What was given out, for people."""
    card = done.card
    when = "is promoted" if done.is_new else f"was promoted before, {card.promoted_at}"
    lines = [f"{card.federation}: round {card.round} {when}: {done.folder}"]
    if card.despite:
        lines.append(f"  despite: {card.despite}")
    lines += _few([f"round {number} is not: {why}" for number, why in card.not_later.items()])
    lines += _few([f"{name} has not scored it" for name in card.unheard])
    lines += _few([left_out_sentence(one) for one in card.left_out])
    lines += _few([done.registry] if done.registry else [])
    return "\n".join(map(printable, lines))


def _few(sentences: list[str]) -> list[str]:
    more = len(sentences) - MOST_LINES
    rest = [f"  and {more} more such, see {CARD}"] if more > 0 else []
    return [f"  {sentence}" for sentence in sentences[:MOST_LINES]] + rest


def _choose(
    plan: FederationPlan,
    verdicts: tuple[Verdict, ...],
    number: int | None,
    *,
    despite_losses: bool,
) -> Verdict:
    first = plan.correspondence.rounds + 1
    if len(verdicts) < first:
        raise CheckpointError(f"round {len(verdicts)} is saved; the segmenter trains from {first}")
    wanted = promoted_round(verdicts) if number is None else number
    if wanted is None:
        newest = verdicts[-1]
        raise ReleaseError(
            f"no round may be promoted. Round {newest.round}: {newest.why_not}. Let the federation "
            f"go on, or give that one out with --round {newest.round} --despite-losses"
        )
    if not first <= wanted <= len(verdicts):
        raise CheckpointError(f"expected a round from {first} to {len(verdicts)}, got {wanted}")
    verdict = verdicts[wanted - 1]
    if not verdict.is_promoted and not despite_losses:
        raise ReleaseError(
            f"round {wanted} may not be promoted: {verdict.why_not}. Take another round, or give "
            "this one out with --despite-losses"
        )
    return verdict


def _read_models(folder: RunFolder, plan: FederationPlan, number: int) -> bytes:
    path = folder.checkpoints / f"round-{number:05d}"
    try:
        models = (path / MODELS).read_bytes()
    except FileNotFoundError:
        kept = sorted(int(one.name[-5:]) for one in folder.checkpoints.glob("round-?????"))
        raise CheckpointError(f"round {number} is not kept any more; kept are {kept}") from None
    read_state(path, plan)
    return models


def _card(
    plan: FederationPlan, state: RoundState, verdict: Verdict, verdicts: tuple[Verdict, ...]
) -> ModelCard:
    record = state.scores_of(verdict.round)
    ledger = forgetting_ledger(plan, state)
    return ModelCard(
        federation=plan.federation,
        round=verdict.round,
        promoted_at=datetime.now(UTC).isoformat(timespec="seconds"),
        despite=verdict.why_not,
        scores={note.hospital: note.scores for note in record.notes} if record else {},
        losses=tuple(row for row in ledger.losses if row.round == verdict.round),
        left_out=ledger.left_out,
        unheard=verdict.unheard,
        not_later={
            one.round: one.why_not for one in verdicts[verdict.round :] if not one.is_promoted
        },
        software=SOFTWARE,
        plan=plan,
    )
