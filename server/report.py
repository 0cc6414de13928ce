"""The report of a run: report.json for other tools, report.html for people."""

import base64
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, select_autoescape

from common.plan import FederationPlan
from common.settings_file import Settings
from server.held_back import HeldBack, held_back_scores
from server.ledger import Ledger, forgetting_ledger, largest_losses, left_out_sentence
from server.promotion import ReleaseGate, release_gate
from server.report_plots import plot_curves, plot_losses, plot_matrix, to_png
from server.round_state import RoundState
from server.run_folder import RunFolder

# In the tables of the page; report.json has all.
MOST_LINES = 12


class SiteRow(Settings):
    """One hospital: its scans, and what became of them in its last round.

    None: the hospital's policy keeps the number back.
    """

    name: str
    scans: int | None
    annotated_slices: int | None
    used: int | None
    skipped: int | None
    quarantined: int | None
    rounds_trained: int = 0
    rounds_dropped: int = 0


class ModelScores(Settings):
    """One model on scans with full labels. Distances are None where the spacing is no truth."""

    dice: dict[str, float]
    mean_dice: float | None
    hd95_mm: float | None
    hd95_voxels: float | None = None
    missed: int
    cases: int
    parameters: int


class LocalOnly(Settings):
    """What a hospital reaches alone with the same number of its own steps."""

    site: str
    mean_dice: float | None


class Continual(Settings):
    """`dice_matrix[stage][task]`: mean Dice of a task's test scans after a stage.

    `untrained`: that of the fresh weights of round 0, beside which `fwt` stands; none for the first
    task, which no stage comes before.
    """

    tasks: tuple[str, ...]
    dice_matrix: tuple[tuple[float | None, ...], ...]
    acc: float | None
    bwt: float | None
    forgetting: float | None
    fwt: float | None = None
    learning_accuracy: float | None = None
    untrained: tuple[float | None, ...] = ()


class PropagationScores(Settings):
    """The spread labels of the scans whose painted slice shows something; slices are means."""

    mean_dice: float | None
    mean_dice_without_annotated: float | None
    overrun_slices: float | None
    underrun_slices: float | None
    scans: int
    scans_painted_empty: int


class Annotation(Settings):
    """The effort: slices, their share of the slices that show a structure, rounds of asking."""

    slices: int
    fraction_of_slices: float | None
    rounds: int
    minutes: float | None


class Communication(Settings):
    """Bytes of tensors, as they travelled, per hospital and round; in all and network by network.

    Means over all rounds: in those of the self-learning the correspondence network travels alone.
    """

    rounds: int
    bytes_up_per_site_round: float
    bytes_down_per_site_round: float
    bytes_up_by_network: dict[str, float] = {}
    bytes_down_by_network: dict[str, float] = {}


class PrivacySpent(Settings):
    """What one hospital is protected by, against those who see the shared models.

    `epsilon_of_one` is what a single noisy mean spends, `epsilon` what all `noisy_means` have; both
    hold at `delta`. None: no noise, so no promise.
    """

    clipping_norm: float
    noise_multiplier: float
    delta: float
    noisy_means: int
    epsilon_of_one: float | None
    epsilon: float | None


class Seconds(Settings):
    """Where the time went; `train` and `propagate` are sums over hospitals."""

    total: float
    train: float
    propagate: float
    score: float
    wait: float
    aggregate: float


class Report(Settings):
    """All of report.json; the keys are stable because other tools read them.

    `continual` is scored on test scans with full labels, `held_back` and `ledger` by the hospitals
    on their own slices. Of the ledger's rows only those of which something was lost are here.
    """

    scenario: str
    seed: int
    engine: Literal["in-process", "ray", "deployment"]
    versions: dict[str, str]
    sites: tuple[SiteRow, ...]
    segmenter: ModelScores | None
    student: ModelScores | None
    local_only: tuple[LocalOnly, ...] = ()
    test_scans_left_out: int = 0
    continual: Continual | None
    held_back: HeldBack | None = None
    ledger: Ledger | None = None
    release: ReleaseGate | None = None
    propagation: PropagationScores | None
    annotation: Annotation
    communication: Communication
    privacy: PrivacySpent | None = None
    time_s: Seconds


@dataclass(frozen=True)
class Picture:
    """A picture of the report: PNG bytes and what it shows."""

    title: str
    png: bytes


def installed_versions() -> dict[str, str]:
    """The versions that bear on the numbers."""
    names = ("oneslice", "flwr", "torch", "monai", "torchio", "mlflow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


# The row's number of scans is the sum of a note's field.
WITHHELD_AS = {"scans_per_task": "scans"}


def site_rows(state: RoundState) -> tuple[SiteRow, ...]:
    """One row per hospital that was ever heard of, from the notes it sent."""
    rows = {}
    for name in sorted(state.hospitals):
        notes = [n for r in state.history for n in r.notes if n.hospital == name]
        dropped = sum(d.hospital == name for r in state.history for d in r.dropped)
        last = notes[-1] if notes else None
        # Self-learning uses scans that nobody painted; the row tells of training on labels.
        notes = [note for note in notes if note.outcome != "self_learned"]
        counts = {
            "scans": sum(last.scans_per_task.values()) if last else 0,
            "annotated_slices": last.annotated_slices if last else 0,
            "used": max((note.used for note in notes), default=0),
            "skipped": last.skipped if last else 0,
            "quarantined": last.quarantined if last else 0,
        }
        withheld = {WITHHELD_AS.get(one, one) for one in last.withheld} if last else set()
        rows[name] = SiteRow(
            name=name,
            **{**counts, **dict.fromkeys(counts.keys() & withheld)},
            rounds_trained=sum(note.num_examples > 0 for note in notes),
            rounds_dropped=dropped,
        )
    return tuple(rows.values())


def communication(state: RoundState) -> Communication:
    """Mean bytes per hospital and round."""
    up = _mean_bytes([sizes for one in state.history for sizes in one.bytes_up.values()])
    down = _mean_bytes([record.bytes_down for record in state.history])
    return Communication(
        rounds=state.round,
        bytes_up_per_site_round=sum(up.values()),
        bytes_down_per_site_round=sum(down.values()),
        bytes_up_by_network=up,
        bytes_down_by_network=down,
    )


def _mean_bytes(messages: Sequence[Mapping[str, int]]) -> dict[str, float]:
    """What each network weighs in a message, in the mean over all messages."""
    networks = sorted({name for sizes in messages for name in sizes})
    return {
        name: sum(sizes.get(name, 0) for sizes in messages) / len(messages) for name in networks
    }


def privacy_spent(plan: FederationPlan, state: RoundState) -> PrivacySpent | None:
    """What the rounds so far have spent; None for a plan that does not even clip."""
    settings = plan.privacy
    if settings.clipping_norm is None:
        return None
    spent = [record.epsilon for record in state.history if record.epsilon is not None]
    return PrivacySpent(
        clipping_norm=settings.clipping_norm,
        noise_multiplier=settings.noise_multiplier,
        delta=settings.delta,
        noisy_means=state.num_noisy_means,
        epsilon_of_one=spent[0] if spent else None,
        epsilon=spent[-1] if spent else None,
    )


def seconds_spent(state: RoundState, extra_s: float, *, in_turn: bool) -> Seconds:
    """Where the time of all rounds went, plus `extra_s` outside them.

    `wait` is the waiting for replies beyond the hospitals' own work: beyond the sum of it where
    they work in turn, beyond the longest where they work at the same time.
    """
    spent = dict.fromkeys(("train", "propagate", "score"), 0.0)
    waited = idle = aggregated = 0.0
    for record in state.history:
        works = [sum(note.seconds.values()) for note in record.notes]
        busy = sum(works) if in_turn else max(works, default=0.0)
        waited += record.seconds["wait"]
        idle += max(record.seconds["wait"] - busy, 0.0)
        aggregated += record.seconds.get("aggregate", 0.0)
        for note in record.notes:
            for what, value in note.seconds.items():
                spent[what] += value
    total = waited + aggregated + extra_s
    return Seconds(total=total, wait=idle, aggregate=aggregated, **spent)


def losses_of(plan: FederationPlan, state: RoundState) -> Ledger:
    """The forgetting ledger without the rows of which nothing was lost."""
    ledger = forgetting_ledger(plan, state)
    return ledger.model_copy(update={"rows": ledger.losses})


def federation_report(plan: FederationPlan, state: RoundState) -> Report:
    """What the coordinator of real hospitals can tell: nobody there has full labels to test on."""
    notes = {note.hospital: note for record in state.history for note in record.notes}
    painted = sum(note.annotated_slices for note in notes.values())
    return Report(
        scenario=plan.name,
        seed=plan.seed,
        engine="deployment",
        versions=installed_versions(),
        sites=site_rows(state),
        segmenter=None,
        student=None,
        continual=None,
        held_back=held_back_scores(plan, state),
        ledger=losses_of(plan, state),
        release=release_gate(plan, state),
        propagation=None,
        annotation=Annotation(slices=painted, fraction_of_slices=None, rounds=1, minutes=None),
        communication=communication(state),
        privacy=privacy_spent(plan, state),
        time_s=seconds_spent(state, 0.0, in_turn=False),
    )


def write_report(
    folder: RunFolder,
    report: Report,
    plan: FederationPlan,
    state: RoundState,
    overlays: Sequence[Picture],
) -> None:
    """Writes report.json and the self-contained report.html."""
    ledger = forgetting_ledger(plan, state)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=select_autoescape(default=True)
    )
    dropped = [(r.round, d) for r in state.history for d in r.dropped]
    page = environment.get_template("report.html.jinja").render(
        report=report,
        plan=plan,
        dropped=dropped,
        largest_losses=largest_losses(ledger),
        left_out=[left_out_sentence(one) for one in ledger.left_out],
        most_lines=MOST_LINES,
        pictures=_encoded(_pictures(report, plan, state)),
        heat=_encoded(_heat(plan, ledger)),
        overlays=_encoded(overlays),
    )
    folder.report_html.write_text(page, encoding="utf-8")
    # Last, and whole or not there: it says that the run has ended.
    unfinished = folder.report_json.with_suffix(".unfinished")
    unfinished.write_text(report.model_dump_json(indent=2), encoding="utf-8")
    unfinished.replace(folder.report_json)


def _pictures(report: Report, plan: FederationPlan, state: RoundState) -> list[Picture]:
    pictures = [Picture("Learning curves", to_png(plot_curves(plan, state)))]
    if report.continual is not None:
        matrix = plot_matrix(report.continual.tasks, report.continual.dice_matrix)
        pictures.append(Picture("Dice by stage and task", to_png(matrix)))
    elif report.held_back is not None:
        matrix = plot_matrix(report.held_back.tasks, report.held_back.mean.dice_matrix)
        title = "Dice by stage and task on held-back slices, mean over hospitals"
        pictures.append(Picture(title, to_png(matrix)))
    return pictures


def _heat(plan: FederationPlan, ledger: Ledger) -> list[Picture]:
    if not ledger.losses:
        return []
    return [Picture("Dice below the best so far", to_png(plot_losses(plan, ledger)))]


def _encoded(pictures: Sequence[Picture]) -> list[tuple[str, str]]:
    """Titles, and PNG as a page holds it."""
    return [(one.title, base64.b64encode(one.png).decode()) for one in pictures]
