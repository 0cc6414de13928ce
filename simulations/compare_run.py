"""One run of a comparison, from its scenario to a row of the table."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Literal

from common.continual import continual_scores, mean_known
from common.errors import OneSliceError
from common.networks.unet import SEGMENTER
from common.plan import Task
from common.settings_file import Settings
from server.report import seconds_spent
from simulations.evaluate import CaseScores
from simulations.progress import Progress, no_progress
from simulations.report import count_annotation, score_stages
from simulations.run import Alone, keep_scenario, prepare, run_alone, run_scenario
from simulations.scenario import Scenario
from simulations.sites import ScansToTestOn

Order = Literal["given", "reversed"]
# The Dice of each structure, by its name, of each test scan, by its case.
CaseDice = Mapping[str, Mapping[str, float]]
# Tasks with their test cases.
TestedTasks = Sequence[tuple[Task, Sequence[str]]]
OUTCOME_FILE = "outcome.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """What to run for one row.

    Attributes:
        arm: the arm's name.
        seed: of the scenario.
        order: of its tasks.
        scenario: the arm's.
        alone: every hospital runs it without the others.
        data: the folder of the scans.
        folder: where the run lies.
        tasks: of the scenario as it is, each with its test cases: what ACC is a mean over, also
            for an arm that has other tasks.
        patients: of each test case whom it is of; the same name in another run is the same patient.
    """

    arm: str
    seed: int
    order: Order
    scenario: Scenario
    alone: bool
    data: Path
    folder: Path
    tasks: TestedTasks
    patients: Mapping[str, str]


class Outcome(Settings):
    """What a run reached on the test scans; of hospitals alone, the means over them.

    Attributes:
        mean_dice: of the segmenter, the mean over classes of the mean over scans.
        acc: the mean over the tasks of the scenario as it is.
        bwt: None with a single task.
        forgetting: as `bwt`.
        fraction_of_slices: painted ones, as a share of those that show a structure.
        seconds: of work in the run.
        cases: the Dice of each test scan, the mean over its structures.
    """

    mean_dice: float | None
    acc: float | None
    bwt: float | None
    forgetting: float | None
    fraction_of_slices: float | None
    seconds: float
    cases: dict[str, float]


class Row(Outcome):
    """The outcome of one arm with one seed and order of tasks.

    Attributes:
        arm: its name.
        seed: of the scenario.
        order: of the tasks.
        ran_as: the order of the run itself: where an arm is the same in both, one run serves both.
        patients: whom each of the cases is of.
    """

    arm: str
    seed: int
    order: Order
    ran_as: Order
    patients: dict[str, str]


class Failure(Settings):
    """A run that failed, and why."""

    arm: str
    seed: int
    order: Order
    reason: str


def attempt(run: Run, progress: Progress = no_progress) -> Row | Failure:
    """Runs, resumes or only reads a run. What goes wrong ends this run, and no other."""
    try:
        outcome = _run_alone(run, progress) if run.alone else _run_together(run, progress)
    except OneSliceError as error:
        return failure(run, str(error))
    except Exception as error:
        log.exception("%s failed", run.folder)
        return failure(run, f"{type(error).__name__}: {error}")
    return Row(
        arm=run.arm,
        seed=run.seed,
        order=run.order,
        ran_as=run.order,
        patients=dict(run.patients),
        **outcome.model_dump(),
    )


def failure(run: Run, reason: str) -> Failure:
    """That a run failed."""
    return Failure(arm=run.arm, seed=run.seed, order=run.order, reason=reason)


def _run_together(run: Run, progress: Progress) -> Outcome:
    """A finished run gives back its report at once."""
    report = run_scenario(run.scenario, run.data, run.folder, progress=progress)
    found = read_cases(run.folder / "cases.csv")
    stream = report.continual
    return Outcome(
        mean_dice=report.segmenter.mean_dice if report.segmenter else None,
        acc=mean_accuracy(found, run.tasks),
        bwt=stream.bwt if stream else None,
        forgetting=stream.forgetting if stream else None,
        fraction_of_slices=report.annotation.fraction_of_slices,
        seconds=report.time_s.total,
        cases=_means_of_cases(found),
    )


def _run_alone(run: Run, progress: Progress) -> Outcome:
    kept = run.folder / OUTCOME_FILE
    keep_scenario(run.scenario, run.folder)
    if kept.exists():
        return Outcome.model_validate_json(kept.read_text(encoding="utf-8"))
    prepared = prepare(run.scenario, run.data, run.folder, progress)
    outcomes = []
    for site in run.scenario.sites:
        alone = run_alone(run.scenario, site, prepared, run.folder, progress)
        if alone is not None:
            outcomes.append(_outcome_alone(run, alone, prepared.test, progress))
    share = count_annotation(prepared.stores, run.scenario.plan).fraction_of_slices
    outcome = _mean_outcome(outcomes).model_copy(update={"fraction_of_slices": share})
    unfinished = kept.with_suffix(".unfinished")
    unfinished.write_text(outcome.model_dump_json(), encoding="utf-8")
    unfinished.replace(kept)
    return outcome


def _outcome_alone(run: Run, alone: Alone, test: ScansToTestOn, progress: Progress) -> Outcome:
    stages = score_stages(alone.scenario, alone.folder, test, alone.state, progress).segmenter
    found = [{case.case: _by_name(case, run.scenario) for case in cases} for cases in stages]
    cases_of = {task.name: cases for task, cases in run.tasks}
    trained = [(task, cases_of[task.name]) for task in alone.scenario.plan.tasks]
    matrix = [[task_dice(dice, task, cases) for task, cases in trained] for dice in found]
    stream = continual_scores(matrix)
    return Outcome(
        mean_dice=mean_dice(found[-1]),
        acc=mean_accuracy(found[-1], run.tasks),
        bwt=stream.bwt,
        forgetting=stream.forgetting,
        fraction_of_slices=None,
        seconds=seconds_spent(alone.state, 0.0, in_turn=True).total,
        cases=_means_of_cases(found[-1]),
    )


def _by_name(case: CaseScores, scenario: Scenario) -> dict[str, float]:
    name_of = {label.index: label.name for label in scenario.plan.labels}
    return {name_of[index]: one.dice for index, one in case.structures.items()}


def _mean_outcome(outcomes: Sequence[Outcome]) -> Outcome:
    """The means over hospitals; their seconds are added up."""
    return Outcome(
        mean_dice=mean_known([one.mean_dice for one in outcomes]),
        acc=mean_known([one.acc for one in outcomes]),
        bwt=mean_known([one.bwt for one in outcomes]),
        forgetting=mean_known([one.forgetting for one in outcomes]),
        fraction_of_slices=None,
        seconds=sum(one.seconds for one in outcomes),
        cases={
            case: mean(one.cases[case] for one in outcomes if case in one.cases)
            for case in sorted({case for one in outcomes for case in one.cases})
        },
    )


def read_cases(path: Path) -> dict[str, dict[str, float]]:
    """The segmenter's Dice of each structure of each test scan, from a run's cases.csv."""
    found: dict[str, dict[str, float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["model"] == SEGMENTER:
                found.setdefault(row["case"], {})[row["structure"]] = float(row["dice"])
    return found


def mean_dice(cases: CaseDice) -> float | None:
    """The mean over structures of the mean over the scans where each was scored."""
    names = sorted({name for dice in cases.values() for name in dice})
    return mean_known(
        [mean(dice[name] for dice in cases.values() if name in dice) for name in names]
    )


def mean_accuracy(cases: CaseDice, tasks: TestedTasks) -> float | None:
    """ACC: the mean over tasks."""
    return mean_known([task_dice(cases, task, names) for task, names in tasks])


def task_dice(cases: CaseDice, task: Task, names: Sequence[str]) -> float | None:
    """The mean over a task's test cases of the mean over its classes that were scored there."""
    scored = [cases[name] for name in names if name in cases]
    return mean_known(
        [mean_known([dice[one] for one in task.classes if one in dice]) for dice in scored]
    )


def _means_of_cases(cases: CaseDice) -> dict[str, float]:
    return {case: mean(dice.values()) for case, dice in cases.items() if dice}
