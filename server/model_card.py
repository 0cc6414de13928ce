"""What people should know of a release before they use it: model_card.json and MODEL_CARD.md."""

from importlib.metadata import version
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from common.plan import FederationPlan, Label, NetworkSize
from common.privacy import Privacy
from common.released_models import ReleaseRecord
from common.scans import Modality, Plane
from common.settings_file import Settings
from common.strategy import StrategySettings
from common.updates import TaskScore
from server.ledger import LedgerRow, left_out_sentence
from server.promoted_models import ModelCard
from server.report import ModelScores, PrivacySpent, privacy_spent
from server.round_state import RoundRecord, RoundState

Stage = Literal["learnt", "being learnt", "not begun"]


class ReleaseFacts(Settings):
    """Which release this is.

    `most_loss`: the release gate's limit; none: the plan has no gate. `despite`: why the gate
    refused the round, if a person promoted it all the same.
    """

    federation: str
    round: int
    rounds_planned: int
    models_sha256: str
    promoted_at: str
    most_loss: float | None
    despite: str
    software: dict[str, str]


class TaskFacts(Settings):
    """One task, in the order of training, and how far it was when the round was over."""

    name: str
    classes: tuple[str, ...]
    modality: Modality
    plane: Plane
    window_hu: tuple[float, float] | None
    rounds: int
    stage: Stage


class NetworkFacts(Settings):
    """One network. `tested`: on scans with full labels, as only a simulation has them.

    `onnx_difference`: by how much ONNX Runtime's logits differ from PyTorch's, as a share of the
    largest; none: nobody has looked.
    """

    size: NetworkSize
    parameters: int
    onnx_difference: float | None
    tested: ModelScores | None


class HospitalFacts(Settings):
    """One hospital's part. `scores`: of the segmenter on slices that it holds back.

    None: the hospital keeps that number to itself. `lost`: since the best round before.
    """

    name: str
    scans: int | None
    annotated_slices: int | None
    scores: tuple[TaskScore, ...]
    lost: tuple[LedgerRow, ...]


class AnnotationFacts(Settings):
    """What the hospitals painted up to this round; sums of what they tell.

    `share_of_slices`: of the slices that show a structure; known in a simulation alone.
    """

    slices: int
    scans: int
    slice_choice: str
    share_of_slices: float | None


class TrainingFacts(Settings):
    """How the hospitals' models were combined, and what protects the hospitals."""

    strategy: StrategySettings
    privacy: Privacy
    privacy_spent: PrivacySpent | None


class ReleaseCard(Settings):
    """model_card.json. `mean_dice`: by class, over all hospitals' held-back slices."""

    release: ReleaseFacts
    labels: tuple[Label, ...]
    tasks: tuple[TaskFacts, ...]
    networks: dict[str, NetworkFacts]
    hospitals: tuple[HospitalFacts, ...]
    mean_dice: dict[str, float]
    annotation: AnnotationFacts
    training: TrainingFacts
    limits: tuple[str, ...]


def build_card(
    record: ReleaseRecord,
    promoted: ModelCard,
    state: RoundState,
    networks: dict[str, NetworkFacts],
    share_of_slices: float | None,
) -> ReleaseCard:
    """The card of a release.

    Args:
        record: which release.
        promoted: what was known of it when it was promoted.
        state: the run's newest; the scores of the round may have come later.
        networks: the facts on both.
        share_of_slices: which part of the slices that show a structure was painted, where known.
    """
    plan, number = record.plan, record.round
    scored = state.scores_of(number)
    then = RoundState(number, {}, {}, state.history[:number])
    hospitals = _hospitals(then, promoted, scored)
    tasks = _tasks(plan, number)
    return ReleaseCard(
        release=ReleaseFacts(
            federation=record.federation,
            round=number,
            rounds_planned=plan.num_rounds,
            models_sha256=record.models_sha256,
            promoted_at=promoted.promoted_at,
            most_loss=plan.release.most_loss,
            despite=promoted.despite,
            software={"oneslice": record.software, **_versions()},
        ),
        labels=plan.labels,
        tasks=tasks,
        networks=networks,
        hospitals=hospitals,
        mean_dice=scored.held_back_dice(plan.training.judged_slices) if scored else {},
        annotation=_annotation(plan, hospitals, share_of_slices),
        training=TrainingFacts(
            strategy=plan.strategy,
            privacy=plan.privacy,
            privacy_spent=privacy_spent(plan, then),
        ),
        limits=(*_limits(plan, tasks), *_doubts(promoted, bool(scored))),
    )


def card_text(card: ReleaseCard) -> str:
    """MODEL_CARD.md."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = in_table
    return environment.get_template("model_card.md.jinja").render(card=card)


def in_table(value: object) -> str:
    """A value as a cell of a Markdown table."""
    if value is None:
        return "not told"
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("\\", "\\\\").replace("|", "\\|")


def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("flwr", "monai", "torch")}


def _tasks(plan: FederationPlan, number: int) -> tuple[TaskFacts, ...]:
    current = plan.stage_of_round(number)
    return tuple(
        TaskFacts(
            **task.model_dump(include={"name", "classes", "modality", "plane", "window_hu"}),
            rounds=task.rounds,
            stage=_stage(stage, current, is_over=number >= plan.last_round_of_stage(stage)),
        )
        for stage, task in enumerate(plan.tasks)
    )


def _stage(stage: int, current: int, *, is_over: bool) -> Stage:
    if is_over:
        return "learnt"
    return "being learnt" if stage == current else "not begun"


def _hospitals(
    then: RoundState, promoted: ModelCard, scored: RoundRecord | None
) -> tuple[HospitalFacts, ...]:
    scores = {note.hospital: note.scores for note in scored.notes} if scored else {}
    newest = {note.hospital: note for record in then.history for note in record.notes}
    facts = []
    for name in sorted(then.hospitals | set(scores)):
        note = newest.get(name)
        withheld = note.withheld if note else ("scans_per_task", "annotated_slices")
        scans = sum(note.scans_per_task.values()) if note else 0
        slices = note.annotated_slices if note else 0
        facts.append(
            HospitalFacts(
                name=name,
                scans=None if "scans_per_task" in withheld else scans,
                annotated_slices=None if "annotated_slices" in withheld else slices,
                scores=scores.get(name, ()),
                lost=tuple(row for row in promoted.losses if row.hospital == name),
            )
        )
    return tuple(facts)


def _annotation(
    plan: FederationPlan, hospitals: tuple[HospitalFacts, ...], share_of_slices: float | None
) -> AnnotationFacts:
    return AnnotationFacts(
        slices=sum(one.annotated_slices or 0 for one in hospitals),
        scans=sum(one.scans or 0 for one in hospitals),
        slice_choice=plan.annotation.slice_choice,
        share_of_slices=share_of_slices,
    )


def _limits(plan: FederationPlan, tasks: tuple[TaskFacts, ...]) -> list[str]:
    """What holds for every release of such a plan."""
    lines = [
        "Research software. It is no medical device, nobody has approved it for care, and every "
        "result needs a person who looks at it.",
        "It was trained on the scans of these hospitals alone. Other scanners, protocols, ages and "
        "diseases are unknown to it.",
        "The hospitals' scores are of the segmenter, on slices that their own clinicians painted. "
        "Nobody scores the student there: it is smaller and may be worse.",
        "It gives one label to every voxel, however little it knows: a structure that is missing, "
        "operated on or displaced may be found where there is none.",
    ]
    if plan.propagation.reach_slices > 0:
        lines.append(
            "People painted single slices; further from these, a machine carried the labels on, "
            "and the models learnt from both."
        )
    untaught = {name for task in tasks if task.stage == "not begun" for name in task.classes}
    taught = {name for task in tasks if task.stage != "not begun" for name in task.classes}
    if untaught - taught:
        lines.append(f"Nobody has taught it yet: {', '.join(sorted(untaught - taught))}.")
    if not plan.privacy.adds_noise:
        lines.append(
            "It was trained without noise, so nothing bounds what its weights may tell about a "
            "scan that it was trained on."
        )
    return lines


def _doubts(promoted: ModelCard, is_scored: bool) -> list[str]:
    """What holds for this release alone."""
    lines = []
    if promoted.despite:
        lines.append(
            "The release gate refused this round, and a person promoted it all the same: "
            f"{promoted.despite}."
        )
    if not is_scored:
        lines.append("No hospital has scored this round.")
    lines += [f"{name} has not scored this round." for name in promoted.unheard]
    return lines + [f"{left_out_sentence(one)}." for one in promoted.left_out]
