"""One simulated federation from scans to report. Run again on the same folder, it resumes."""

import json
import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from client.store.ingest import check_channels
from client.store.layouts import Dataset, find_cases
from client.store.scans import list_scans
from client.store.store import Store
from common.errors import CheckpointError, SettingsError
from common.networks.unet import SEGMENTER
from common.plan import FederationPlan
from common.privacy import Privacy
from common.settings_file import parse_settings
from server.report import LocalOnly, Report
from server.round_state import RoundState
from server.run_folder import RunFolder
from server.tracking import attach_report
from simulations.annotator import SimulatedAnnotator
from simulations.earlier_sites import take_over_sites
from simulations.engines import Engine, SimulatedFederation, run_engine
from simulations.evaluate import TrainedModel, score_scans, summarise
from simulations.phantoms import write_phantoms
from simulations.progress import Progress, counted, no_progress
from simulations.report import (
    RunResults,
    build_report,
    keep_report,
    score_spread_labels,
    score_stages,
)
from simulations.scenario import Scenario
from simulations.sites import (
    Dealt,
    ScansToTestOn,
    deal_cases,
    fill_sites,
    gather_test_scans,
)

SCENARIO_FILE = "scenario.json"


@dataclass(frozen=True)
class Prepared:
    """The hospitals of a scenario with their scans ingested and painted, and the test scans.

    `classes_painted` as in `Dealt`.
    """

    stores: dict[str, Store]
    test: ScansToTestOn
    classes_painted: Mapping[tuple[str, str], Set[str]]


@dataclass(frozen=True)
class Alone:
    """A hospital that trained without the others: by which scenario, where, and how it ended."""

    scenario: Scenario
    folder: RunFolder
    state: RoundState


def run_scenario(
    scenario: Scenario,
    data: Path | None,
    out: Path,
    *,
    engine: Engine = "in-process",
    local_only: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Runs the scenario to its report, or goes on where a killed run stopped.

    A finished run's report is given back as it is, unless it lacks the hospitals' results alone and
    they are asked for.

    Raises:
        OneSliceError: something at the door does not hold, or the federation stopped.
    """
    # Ray's processes have another current folder.
    out = out.resolve()
    folder = RunFolder(out)
    take_over_sites(scenario.plan, out)
    folder.keep_plan(scenario.plan)
    keep_scenario(scenario, out)
    finished = finished_report(folder)
    if finished is not None and (finished.local_only or not local_only):
        return finished
    started = time.perf_counter()
    prepared = prepare(scenario, data, out, progress)
    prepared_s = time.perf_counter() - started

    stores = {name: store.folder for name, store in prepared.stores.items()}
    annotator = SimulatedAnnotator(scenario.plan, scenario.annotator, prepared.classes_painted)
    federation = SimulatedFederation(scenario.plan, folder, stores, scenario.faults, annotator)
    state = run_engine(engine, federation, show_rounds(progress, scenario.plan, "rounds"))

    started = time.perf_counter()
    stages = score_stages(scenario, folder, prepared.test, state, progress)
    # Hospitals that train alone spread their labels with networks of their own.
    spread = score_spread_labels(prepared.stores, scenario.plan)
    alone = train_alone(scenario, prepared, out, progress) if local_only else ()
    extra_s = prepared_s + time.perf_counter() - started
    results = RunResults(scenario, engine, prepared.stores, state, stages, alone, extra_s, spread)
    report = build_report(results, prepared.test)
    keep_report(folder, report, results, prepared.test.store)
    attach_report(scenario.plan, folder)
    return report


def finished_report(folder: RunFolder) -> Report | None:
    """The report of a run that has ended; None if it has not."""
    if not folder.report_json.exists():
        return None
    return Report.model_validate_json(folder.report_json.read_text(encoding="utf-8"))


def prepare(scenario: Scenario, data: Path | None, out: Path, progress: Progress) -> Prepared:
    """Deals, ingests and paints; what a killed run had done is kept."""
    dataset = find_data(scenario, data, out)
    check_channels(dataset, scenario.plan)
    dealt: Dealt = deal_cases(scenario, dataset)
    stores = fill_sites(scenario, dataset, dealt, out / "sites", progress)
    test = gather_test_scans(scenario, dataset, dealt, out, progress)
    return Prepared(stores, test, dealt.classes_painted)


def find_data(scenario: Scenario, data: Path | None, out: Path) -> Dataset:
    """The scenario's data set: phantoms, or the given folder.

    Raises:
        SettingsError: a folder is missing, or was given to a scenario of phantoms.
    """
    if scenario.phantoms is None:
        if data is None:
            raise SettingsError(f"scenario {scenario.name!r} needs scans: give --data FOLDER")
        return find_cases(data)
    if data is not None:
        raise SettingsError(
            f"scenario {scenario.name!r} draws its own phantoms: leave --data out, or name "
            "another scenario"
        )
    write_phantoms(out / "phantoms", scenario)
    return find_cases(out / "phantoms")


def train_alone(
    scenario: Scenario, prepared: Prepared, out: Path, progress: Progress
) -> tuple[LocalOnly, ...]:
    """What each hospital reaches without the others."""
    results = []
    for site in prepared.stores:
        alone = run_alone(scenario, site, prepared, out, progress)
        if alone is None:
            results.append(LocalOnly(site=site, mean_dice=None))
            continue
        model = TrainedModel(alone.scenario.plan, alone.state.arrays, SEGMENTER)
        test = prepared.test
        on_scan = counted(progress, f"score {site}", len(test.scans))
        cases = score_scans(test.store, test.scans, model, on_scan=on_scan)
        mean = summarise(cases, model).mean_dice
        results.append(LocalOnly(site=site, mean_dice=mean))
    return tuple(results)


def run_alone(
    scenario: Scenario, site: str, prepared: Prepared, out: Path, progress: Progress
) -> Alone | None:
    """Trains a hospital without the others, with the steps it has in the federation.

    It begins with the first stage for which it has scans; later ones for which it has none it
    trains from memory, if the plan replays. None: it has no scans to train on at all.
    """
    store, held_back = prepared.stores[site], scenario.plan.is_held_back
    own = {scan.task for scan in list_scans(store) if not held_back(scan.scan_id)}
    tasks = tuple(task for task in scenario.plan.tasks if task.name in own)
    if not tasks:
        return None
    replay = scenario.plan.replay
    if replay.budget_scans > 0 and replay.share > 0:
        tasks = scenario.plan.tasks[scenario.plan.tasks.index(tasks[0]) :]
    limits = scenario.plan.limits.model_copy(update={"hospitals": 1, "quorum": 1})
    strategy = scenario.plan.strategy.model_copy(update={"name": "FedAvg"})
    changed = {"name": f"{scenario.plan.name}-{site}"[:48], "limits": limits, "extends": None}
    changed |= {"tasks": tasks, "strategy": strategy, "privacy": Privacy()}  # from nobody
    plan = scenario.plan.model_copy(update=changed)
    folder = RunFolder(out / "local_only" / site)
    annotator = SimulatedAnnotator(plan, scenario.annotator, prepared.classes_painted)
    federation = SimulatedFederation(plan, folder, {site: store.folder}, annotator=annotator)
    state = run_engine("in-process", federation, show_rounds(progress, plan, site))
    return Alone(scenario.model_copy(update={"plan": plan}), folder, state)


def show_rounds(
    progress: Progress, plan: FederationPlan, what: str
) -> Callable[[RoundState], None]:
    """Shows each saved round as progress."""
    return lambda state: progress(what, state.round, plan.num_rounds)


def keep_scenario(scenario: Scenario, out: Path) -> None:
    """Beside the plan, so that a run can be reported and evaluated without its command line.

    Raises:
        SettingsError: the folder holds a run of another scenario.
    """
    path = out / SCENARIO_FILE
    if path.exists():
        if read_kept_scenario(out) != scenario:
            raise SettingsError(f"{out} holds a run of another scenario: give another --out")
        return
    out.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(scenario.model_dump_json(indent=2), encoding="utf-8")
    unfinished.replace(path)


def read_kept_scenario(out: Path) -> Scenario:
    """The scenario of a run's folder.

    Raises:
        CheckpointError: the folder holds no simulated run.
    """
    path = out / SCENARIO_FILE
    if not path.exists():
        raise CheckpointError(f"expected a simulated run's folder with {path.name}: {out}")
    return parse_settings(Scenario, json.loads(path.read_text(encoding="utf-8")), str(path))
