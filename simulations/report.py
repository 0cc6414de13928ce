"""Gathers what a simulated run reached into its report."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from client.annotation.annotator import annotated_refs
from client.store.annotations import annotation_effort
from client.store.label_maps import find_label_map, load_label_map
from client.store.scans import CatalogScan, list_scans, read_reference
from client.store.store import Store
from common.continual import continual_scores
from common.networks.unet import SEGMENTER, STUDENT
from common.plan import FederationPlan
from common.updates import Arrays
from server.checkpoints import read_state
from server.held_back import held_back_scores
from server.promotion import release_gate
from server.report import (
    Annotation,
    Continual,
    LocalOnly,
    ModelScores,
    PropagationScores,
    Report,
    communication,
    installed_versions,
    losses_of,
    privacy_spent,
    seconds_spent,
    site_rows,
    write_report,
)
from server.round_state import RoundState
from server.rounds import first_state
from server.run_folder import RunFolder
from simulations.engines import Engine
from simulations.evaluate import CaseScores, TrainedModel, score_scans, summarise
from simulations.overlays import draw_overlays
from simulations.progress import Progress, counted
from simulations.scenario import Scenario
from simulations.sites import ScansToTestOn
from simulations.spread_score import SpreadScore, score_spread


@dataclass(frozen=True)
class StageScores:
    """The test scans after each stage: `segmenter[stage]`; the student after the last.

    No `student` where the plan trains none. `untrained`: of each task after the first, its own by
    the fresh weights of round 0, with the classes that were taught before its stage.
    """

    segmenter: list[list[CaseScores]]
    student: list[CaseScores] | None
    untrained: list[list[CaseScores]]


@dataclass(frozen=True)
class RunResults:
    """All that a finished run's report is made of."""

    scenario: Scenario
    engine: Engine
    stores: dict[str, Store]
    state: RoundState
    stages: StageScores
    local_only: tuple[LocalOnly, ...]
    extra_s: float
    propagation: PropagationScores | None


def score_stages(
    scenario: Scenario,
    folder: RunFolder,
    test: ScansToTestOn,
    state: RoundState,
    progress: Progress,
) -> StageScores:
    """Scores the models that ended each stage on all test scans."""
    plan = scenario.plan
    later = [
        [scan for scan in test.scans if scan.case in names]
        for names in (set(test.case_names[task.name]) for task in plan.tasks[1:])
    ]
    trains_student = plan.training.student_steps_per_round > 0
    num_scans = len(test.scans) * (len(plan.tasks) + trains_student) + sum(map(len, later))
    on_scan = counted(progress, "score test scans", num_scans)

    def score(
        arrays: Arrays,
        role: str,
        scans: Sequence[CatalogScan] = test.scans,
        number: int | None = None,
    ) -> list[CaseScores]:
        model = TrainedModel(plan, arrays, role, number)
        in_voxels = scenario.spacing_is_placeholder
        return score_scans(test.store, scans, model, in_voxels=in_voxels, on_scan=on_scan)

    segmenter = []
    for stage in range(len(plan.tasks) - 1):
        number = plan.last_round_of_stage(stage)
        arrays = read_state(folder.checkpoints / f"round-{number:05d}", plan).arrays
        segmenter.append(score(arrays, SEGMENTER, number=number))
    segmenter.append(score(state.arrays, SEGMENTER))
    fresh = first_state(plan).arrays
    untrained = [
        score(fresh, SEGMENTER, scans, plan.last_round_of_stage(stage))
        for stage, scans in enumerate(later)
    ]
    student = score(state.arrays, STUDENT) if trains_student else None
    return StageScores(segmenter, student, untrained)


def build_report(results: RunResults, test: ScansToTestOn) -> Report:
    """The report's numbers."""
    scenario, plan, state = results.scenario, results.scenario.plan, results.state
    in_voxels = scenario.spacing_is_placeholder
    in_turn = results.engine == "in-process"

    def summed_up(role: str, cases: list[CaseScores]) -> ModelScores:
        return summarise(cases, TrainedModel(plan, state.arrays, role), in_voxels=in_voxels)

    segmenter, student = results.stages.segmenter[-1], results.stages.student
    return Report(
        scenario=scenario.name,
        seed=scenario.seed,
        engine=results.engine,
        versions=installed_versions(),
        sites=site_rows(state),
        segmenter=summed_up(SEGMENTER, segmenter),
        student=None if student is None else summed_up(STUDENT, student),
        test_scans_left_out=test.left_out,
        local_only=results.local_only,
        continual=_continual(plan, results.stages, test.case_names),
        held_back=held_back_scores(plan, state),
        ledger=losses_of(plan, state),
        release=release_gate(plan, state),
        propagation=results.propagation,
        annotation=count_annotation(results.stores, plan),
        communication=communication(state),
        privacy=privacy_spent(scenario.plan, state),
        time_s=seconds_spent(state, results.extra_s, in_turn=in_turn),
    )


def keep_report(folder: RunFolder, report: Report, results: RunResults, test_store: Store) -> None:
    """Writes every test scan's scores as cases.csv, report.html, and report.json.

    That there is a report says that the run has ended, so it comes last.
    """
    plan, cases = results.scenario.plan, results.stages.segmenter[-1]
    overlays = draw_overlays(test_store, cases, plan, results.state.arrays)
    _keep_cases(folder.path / "cases.csv", plan, results.stages)
    write_report(folder, report, plan, results.state, overlays)


def _keep_cases(path: Path, plan: FederationPlan, stages: StageScores) -> None:
    unfinished = path.with_suffix(".unfinished")
    name_of = {label.index: label.name for label in plan.labels}
    with unfinished.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["model", "case", "structure", "dice", "hd95", "missed"])
        for role, scored in ((SEGMENTER, stages.segmenter[-1]), (STUDENT, stages.student)):
            for case in scored or ():
                for index, one in case.structures.items():
                    row = [role, case.case, name_of[index], one.dice, one.hd95_mm, one.missed]
                    writer.writerow(row)
    unfinished.replace(path)


def _continual(
    plan: FederationPlan,
    stages: StageScores,
    test_cases: dict[str, list[str]],
) -> Continual:
    matrix = tuple(_row(plan, cases, test_cases) for cases in stages.segmenter)
    later = enumerate(stages.untrained, 1)
    untrained = (None, *(_row(plan, cases, test_cases)[task] for task, cases in later))
    scores = continual_scores(matrix, untrained)
    return Continual(
        tasks=tuple(task.name for task in plan.tasks),
        dice_matrix=matrix,
        acc=scores.acc,
        bwt=scores.bwt,
        forgetting=scores.forgetting,
        fwt=scores.fwt,
        learning_accuracy=scores.learning_accuracy,
        untrained=untrained,
    )


def _row(
    plan: FederationPlan, cases: Sequence[CaseScores], test_cases: dict[str, list[str]]
) -> tuple[float | None, ...]:
    """Each task's mean Dice on its test scans."""
    row = []
    for task in plan.tasks:
        classes, mine = plan.class_indexes(task), set(test_cases[task.name])
        means = [case.mean_dice(classes) for case in cases if case.case in mine]
        scored = [mean for mean in means if mean is not None]
        row.append(float(np.mean(scored)) if scored else None)
    return tuple(row)


def score_spread_labels(stores: dict[str, Store], plan: FederationPlan) -> PropagationScores | None:
    """How well the painted slices of all hospitals were spread, before any segmenter joined."""
    scores: list[SpreadScore] = []
    num_empty = 0
    for store in stores.values():
        for scan in list_scans(store):
            made_from = find_label_map(store, scan.scan_id, plan.federation, joined=False)
            if scan.reference_key is None or made_from is None:
                continue
            labels = load_label_map(store, scan.scan_id, plan.federation, joined=False)
            reference = read_reference(store, scan.scan_id, plan)
            axis = annotated_refs(store, scan.scan_id)[0].axis
            score = score_spread(labels, reference, axis)
            num_empty += score is None
            scores += [score] if score is not None else []
    if not scores:
        return None
    without = [s.dice_without_annotated for s in scores if s.dice_without_annotated is not None]
    return PropagationScores(
        mean_dice=float(np.mean([score.dice for score in scores])),
        mean_dice_without_annotated=float(np.mean(without)) if without else None,
        overrun_slices=float(np.mean([score.overrun_slices for score in scores])),
        underrun_slices=float(np.mean([score.underrun_slices for score in scores])),
        scans=len(scores),
        scans_painted_empty=num_empty,
    )


def count_annotation(stores: dict[str, Store], plan: FederationPlan) -> Annotation:
    """What was painted at all hospitals, against the slices that show a class of their task."""
    slices, seconds, with_structure = 0, 0.0, 0
    for store in stores.values():
        painted, spent = annotation_effort(store)
        slices, seconds = slices + painted, seconds + spent
        for scan in list_scans(store):
            task = plan.task_named(scan.task)
            if scan.reference_key is not None:
                reference = read_reference(store, scan.scan_id, plan)
                shown = np.isin(reference, plan.class_indexes(task))
                plane = tuple(axis for axis in range(3) if axis != task.axis)
                with_structure += int(shown.any(axis=plane).sum())
    return Annotation(
        slices=slices,
        fraction_of_slices=slices / with_structure if with_structure else None,
        rounds=1,
        minutes=seconds / 60,
    )
