"""Interactive rounds, simulated: paint, train, ask where to paint next, until it was enough.

After the dynamic interactive learning of Tian, Chen and Gao (2023). One slice in each scan of a
pooled hospital is painted and a segmenter trained on the painted slices alone; then a guide names
the next slices, an oracle paints them, and training goes on from the weights as they are. All
guides see the same scans, first slices, number of steps and random streams; full labels do too.

Every finished round is kept in a folder, so that a course that was stopped goes on where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch
from monai.networks.nets import UNet
from pydantic import Field

from client.learning.device import choose_device
from common.networks.unet import SEGMENTER, build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.scans import SliceRef
from common.settings_file import Settings
from simulations.evaluate import TrainedModel, score_scans, summarise
from simulations.interactive_gains import correlation, realised_gains
from simulations.interactive_guides import Asking, Guide, Networks, look, suggestions_of, unguided
from simulations.interactive_pool import (
    Effort,
    Pool,
    by_scan,
    every_slice,
    examples,
    first_slices,
    gather_pool,
    measure_effort,
)
from simulations.pooled_training import PARTS, train_pooled
from simulations.progress import Progress, counted, no_progress


class InteractiveSettings(Settings):
    """How a course goes.

    Attributes:
        scans: how many scans to train on; 0: all.
        rounds: the most there are, the one on the first slices included.
        slices_per_round: painted between two rounds, at most one in each scan.
        steps: of training in each round.
        least_gain: in the Dice of a scan; slices that promise no more are not asked for.
        delta: slices on either side that a painted one settles.
        guides: in the order of the table; the ratios need `full`.
    """

    scans: int = Field(default=80, ge=0)
    rounds: int = Field(default=4, ge=1)
    slices_per_round: int = Field(default=30, ge=1)
    steps: int = Field(default=250, ge=PARTS)
    least_gain: float = Field(default=0.005, ge=0, le=1)
    delta: int = Field(default=2, ge=0)
    guides: tuple[Guide, ...] = ("full", "residual", "random", "none", "cohort", "doubt")


class Round(Settings):
    """A finished round.

    Attributes:
        painted: scan_id and index of all slices painted so far, in that order.
        expected_gains: of the slices painted for this round, in the Dice of their scans; none where
            no guide expected any.
        actual_gains: what the labels of these scans gained, before any training.
        correlation: of the guide's residual with the network's wrong voxels, over all slices.
        mean_dice: on the test scans, the mean over classes.
    """

    painted: tuple[tuple[str, int], ...]
    expected_gains: tuple[float, ...] = ()
    actual_gains: tuple[float, ...] = ()
    correlation: float | None = None
    mean_dice: float


@dataclass(frozen=True)
class Asked:
    """The slices to paint before a round; a guide says what it expects, the truth what it got."""

    refs: list[SliceRef]
    expected_gains: tuple[float, ...] = ()
    actual_gains: tuple[float, ...] = ()
    correlation: float | None = None


@dataclass(frozen=True)
class Row:
    """One line of the table; `of_full_dice` compares with full labels after as many rounds.

    The gains are means over the slices that the guide named for this round.
    """

    guide: Guide
    seed: int
    round: int
    effort: Effort
    expected_gain: float | None
    actual_gain: float | None
    correlation: float | None
    mean_dice: float
    of_full_dice: float | None


@dataclass(frozen=True)
class Course:
    """One guide's rounds on a pool, kept in a folder."""

    guide: Guide
    pool: Pool
    settings: InteractiveSettings
    folder: Path

    def file(self, number: int, suffix: str) -> Path:
        """A file of round 1, 2, ...; the first round is the same for all but full labels.

        The folder is named after the settings that change what its guide asks for, and no others.
        """
        asking = self.asking
        match self.guide:
            case "full" | "none":
                own: list[object] = [self.guide]
            case "random" | "cohort":
                own = [self.guide, asking.num_slices]
            case "residual" | "doubt":
                own = [self.guide, asking.num_slices, asking.delta, asking.least_gain]
        if number == 1 and self.guide != "full":
            own = ["start"]
        return self.folder / "-".join(map(str, own)) / f"round-{number}{suffix}"

    @property
    def asking(self) -> Asking:
        """What each round asks for."""
        settings = self.settings
        return Asking(settings.slices_per_round, settings.least_gain, settings.delta)


def run_interactive(
    data: Path,
    out: Path,
    plan: FederationPlan,
    settings: InteractiveSettings,
    progress: Progress = no_progress,
) -> list[Row]:
    """The rounds of every guide with the plan's seed.

    Args:
        data: a labelled folder with a column `split` in its cases.csv.
        out: ingested scans and finished rounds are kept here.
        plan: labels, network, training and the seed.
        settings: how the course goes.
        progress: told how far it is.

    Raises:
        SettingsError: the folder does not say which scans to train and to test on.
    """
    pool = gather_pool(data, out, plan, num_scans=settings.scans, progress=progress)
    name = f"interactive-{settings.scans}-{settings.steps}-{pool.plan.federation}"
    courses = [Course(guide, pool, settings, out / name) for guide in settings.guides]
    rounds = {course.guide: run_course(course, progress) for course in courses}
    return [row for course in courses for row in _rows(course, rounds)]


def run_course(course: Course, progress: Progress) -> list[Round]:
    """All rounds of one guide, those that were kept included; ends when nothing is asked for."""
    on_round = counted(progress, f"rounds, {course.guide}", course.settings.rounds)
    done: list[Round] = []
    while len(done) < course.settings.rounds:
        number = len(done) + 1
        kept = course.file(number, ".json")
        if kept.exists():
            done.append(Round.model_validate_json(kept.read_text(encoding="utf-8")))
        else:
            asked = ask(course, done)
            if done and not asked.refs and course.guide not in ("full", "none"):
                break
            done.append(train_round(course, number, _refs(course, done), asked))
        on_round(number)
    return done


def ask(course: Course, done: Sequence[Round]) -> Asked:
    """The slices to paint before the next round; none where the painted ones were enough."""
    guide, pool, asking = course.guide, course.pool, course.asking
    if not done:
        return Asked(every_slice(pool) if guide == "full" else first_slices(pool))
    if guide in ("full", "none"):
        return Asked([])
    refs = _refs(course, done)
    if guide in ("random", "cohort"):
        return Asked(unguided(guide, pool, refs, asking.num_slices))
    previous = load_network(course, len(done) - 1) if len(done) > 1 else None
    networks = Networks(load_network(course, len(done)), previous, choose_device())
    looked = [look(guide, pool, painted, networks) for painted in by_scan(refs).items()]
    found = suggestions_of(looked, pool.axis, asking)
    actual = realised_gains(pool, refs, found, networks.newest, networks.device)
    expected = tuple(s.expected_gain for s in found)
    return Asked([s.ref for s in found], expected, tuple(actual), correlation(looked))


def train_round(course: Course, number: int, before: Sequence[SliceRef], asked: Asked) -> Round:
    """Trains on from the round before, scores the network, and keeps both."""
    refs = [*before, *asked.refs]
    pool, plan, device = course.pool, course.pool.plan, choose_device()
    network = load_network(course, number - 1)
    # The rate falls within each round: every round's end may be the last.
    train_pooled(
        network,
        examples(pool, refs, device),
        plan,
        steps=course.settings.steps,
        stream=("interactive", "batches", number),
        device=device,
    )
    model = TrainedModel(plan, networks_to_arrays({SEGMENTER: network}), SEGMENTER)
    dice = summarise(score_scans(pool.store, pool.test, model), model).mean_dice
    finished = Round(
        painted=tuple((ref.scan_id, ref.index) for ref in refs),
        expected_gains=asked.expected_gains,
        actual_gains=asked.actual_gains,
        correlation=asked.correlation,
        mean_dice=dice or 0.0,
    )
    _keep(course, number, network, finished)
    return finished


def load_network(course: Course, number: int) -> UNet:
    """The segmenter after a round; the first weights for round 0."""
    network = build_networks(course.pool.plan)[SEGMENTER]
    if number > 0:
        weights = torch.load(course.file(number, ".pt"), map_location="cpu", weights_only=True)
        network.load_state_dict(weights)
    return network


def _keep(course: Course, number: int, network: UNet, finished: Round) -> None:
    """The JSON comes last: its presence says that the round is complete."""
    weights, record = course.file(number, ".pt"), course.file(number, ".json")
    weights.parent.mkdir(parents=True, exist_ok=True)
    torch.save(network.state_dict(), weights)
    unfinished = record.with_suffix(".unfinished")
    unfinished.write_text(finished.model_dump_json(), encoding="utf-8")
    unfinished.replace(record)


def _refs(course: Course, done: Sequence[Round]) -> list[SliceRef]:
    painted = done[-1].painted if done else ()
    return [SliceRef(scan_id, course.pool.axis, index) for scan_id, index in painted]


def _rows(course: Course, rounds: dict[Guide, list[Round]]) -> list[Row]:
    full = rounds.get("full", [])
    rows = []
    for place, found in enumerate(rounds[course.guide]):
        refs = [SliceRef(scan_id, course.pool.axis, index) for scan_id, index in found.painted]
        most = full[place].mean_dice if place < len(full) else 0.0
        row = Row(
            guide=course.guide,
            seed=course.pool.plan.seed,
            round=place + 1,
            effort=measure_effort(course.pool, refs),
            expected_gain=mean(found.expected_gains) if found.expected_gains else None,
            actual_gain=mean(found.actual_gains) if found.actual_gains else None,
            correlation=found.correlation,
            mean_dice=found.mean_dice,
            of_full_dice=found.mean_dice / most if most > 0 else None,
        )
        rows.append(row)
    return rows
