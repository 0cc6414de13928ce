"""External validation: a run's final models on any labelled folder."""

import tempfile
from pathlib import Path

from client.store.ingest import check_channels, ingest_cases
from client.store.layouts import find_cases
from client.store.scans import check_label_dictionary, list_scans
from client.store.store import create_store
from common.errors import CheckpointError, SettingsError
from common.networks.unet import SEGMENTER, STUDENT
from common.plan import FederationPlan
from server.checkpoints import load_state
from server.report import ModelScores
from server.run_folder import RunFolder
from simulations.evaluate import TrainedModel, score_scans, summarise
from simulations.progress import Progress, counted
from simulations.run import read_kept_scenario


def evaluate_run(run: Path, data: Path, progress: Progress) -> dict[str, ModelScores]:
    """The scores of both final models on every labelled scan of `data`.

    Raises:
        CheckpointError: the run has not ended.
        LabelDictionaryError: the folder's labels do not cover the plan's.
    """
    folder = RunFolder(run)
    plan = folder.read_plan()
    state = load_state(folder.checkpoints, plan)
    if state is None or state.closing is None:
        rounds = 0 if state is None else state.round
        raise CheckpointError(
            f"{run} stands at round {rounds} of {plan.num_rounds}: finish it with the command that "
            "started it, then evaluate"
        )
    everything = _all_classes(plan)
    in_voxels = _spacing_is_placeholder(run)
    dataset = find_cases(data)
    check_channels(dataset, plan)
    with tempfile.TemporaryDirectory() as scratch:
        store = create_store(Path(scratch), "external")
        task = everything.tasks[0]
        on_case = counted(progress, "scans", len(dataset.cases))
        ingest_cases(store, dataset, dataset.cases, task=task, on_case=on_case)
        check_label_dictionary(store, everything)
        scans = [scan for scan in list_scans(store) if scan.reference_key is not None]
        if not scans:
            raise SettingsError(f"{data}: none of {len(dataset.cases)} cases has a usable label")
        scores = {}
        on_scan = counted(progress, "score", 2 * len(scans))
        for role in (SEGMENTER, STUDENT):
            model = TrainedModel(plan, state.arrays, role)
            cases = score_scans(store, scans, model, in_voxels=in_voxels, on_scan=on_scan)
            scores[role] = summarise(cases, model, in_voxels=in_voxels)
    return scores


def _spacing_is_placeholder(run: Path) -> bool:
    """What a simulated run's scenario says; a federation of real hospitals has true spacings."""
    try:
        return read_kept_scenario(run).spacing_is_placeholder
    except CheckpointError:
        return False


def _all_classes(plan: FederationPlan) -> FederationPlan:
    """The plan with one task that looks for every label."""
    names = tuple(label.name for label in plan.labels)
    first = plan.tasks[0].model_copy(update={"name": "external", "classes": names})
    return plan.model_copy(update={"tasks": (first,)})
