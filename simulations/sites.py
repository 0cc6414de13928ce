"""Deals a data set's cases to the hospitals of a scenario and fills their stores."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from client.annotation.annotator import paint_asked_slices
from client.store.ingest import ingest_cases
from client.store.layouts import Case, Dataset
from client.store.scans import CatalogScan, check_label_dictionary, list_scans
from client.store.store import Store, create_store
from common.errors import SettingsError
from common.plan import FederationPlan, Task
from common.random_streams import generator
from common.scans import volume_of
from simulations.annotator import SimulatedAnnotator
from simulations.faults import annotator_of
from simulations.progress import Progress, counted
from simulations.scenario import Deal, Scenario

Columns = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Dealt:
    """Case names by task: what each site trains on, and what nobody trains on.

    `classes_painted` names, by task and case, those that are painted where anybody trains on it.
    """

    training: dict[str, dict[str, list[str]]]
    test: dict[str, list[str]]
    classes_painted: dict[tuple[str, str], set[str]]


@dataclass(frozen=True)
class ScansToTestOn:
    """The test scans of a scenario.

    Attributes:
        store: where they lie; no hospital sees it.
        scans: those to score, each once.
        case_names: per task, the cases that count for it.
        left_out: how many were left out because a hospital holds the very same scan.
    """

    store: Store
    scans: list[CatalogScan]
    case_names: dict[str, list[str]]
    left_out: int


def read_columns(dataset: Dataset) -> Columns:
    """cases.csv beside the data set or above it: the columns of each case, by its name."""
    for folder in (dataset.folder, dataset.folder.parent):
        path = folder / "cases.csv"
        if path.exists():
            with path.open(newline="", encoding="utf-8") as file:
                rows = list(csv.DictReader(file))
            if rows and "case" not in rows[0]:
                raise SettingsError(f"{path}: expected a column `case`, found {list(rows[0])}")
            return {row["case"]: row for row in rows}
    return {}


def deal_cases(scenario: Scenario, dataset: Dataset) -> Dealt:
    """Who gets which case, from the scenario's seed alone.

    Raises:
        SettingsError: a column or value that the scenario names is not in cases.csv, or a test case
            counts for tasks that normalise it differently.
    """
    columns = read_columns(dataset)
    names = [case.name for case in dataset.cases]
    test = set(_test_cases(scenario, names, columns))
    dealt = Dealt({}, {}, {})
    classes_of = {task.name: task.classes for task in scenario.plan.tasks}
    for deal in scenario.deals:
        matching = [name for name in names if _matches(name, deal, columns)]
        if not matching:
            raise SettingsError(_explain_no_match(deal, columns, dataset))
        known = dealt.test.get(deal.task, [])
        dealt.test[deal.task] = list(dict.fromkeys([*known, *(n for n in matching if n in test)]))
        groups = _groups([n for n in matching if n not in test], scenario.group_by, columns)
        matched = [f"{column}={value}" for column, value in sorted(deal.where.items())]
        rng = generator(scenario.seed, "deal", *matched)
        shuffled = [groups[place] for place in rng.permutation(len(groups))]
        number, of = deal.part
        mine = shuffled[number - 1 :: of]
        sites = deal.sites or scenario.sites
        classes = deal.classes or classes_of[deal.task]
        per_site = dealt.training.setdefault(deal.task, {})
        for place, site in enumerate(sites):
            patients = mine[place :: len(sites)][: deal.scans]
            names_of_site = {name for patient in patients for name in patient}
            per_site[site] = sorted({*per_site.get(site, []), *names_of_site})
            for name in names_of_site:
                painted = dealt.classes_painted.setdefault((deal.task, name), set())
                painted.update(classes)
    _check_tests_look_alike(scenario.plan, dealt)
    return dealt


def _check_tests_look_alike(plan: FederationPlan, dealt: Dealt) -> None:
    """A test case is normalised once, whichever tasks it counts for."""
    first_of: dict[str, Task] = {}
    for task in plan.tasks:
        for name in dealt.test.get(task.name, ()):
            first = first_of.setdefault(name, task)
            if (first.modality, first.window_hu) != (task.modality, task.window_hu):
                raise SettingsError(
                    f"the test case {name!r} counts for the tasks {first.name!r} and "
                    f"{task.name!r}, whose modalities or windows differ: deal them cases that "
                    "differ, too (`where`)"
                )


def patients_of(scenario: Scenario, dataset: Dataset, cases: Sequence[str]) -> dict[str, str]:
    """Of each case the group that the scenario keeps together; its own name if it has none."""
    columns = read_columns(dataset)
    groups = _groups(list(cases), scenario.group_by, columns)
    return {name: group[0] for group in groups for name in group}


def fill_sites(
    scenario: Scenario,
    dataset: Dataset,
    dealt: Dealt,
    folder: Path,
    progress: Progress,
) -> dict[str, Store]:
    """Each hospital's store, its scans ingested and their slices painted, if known beforehand.

    What is there already, from a run that was killed, is not done again.

    Raises:
        LabelDictionaryError: the data set's labels do not cover the plan's.
    """
    stores = {}
    num_cases = sum(len(n) for per_site in dealt.training.values() for n in per_site.values())
    on_case = counted(progress, "scans of hospitals", num_cases)
    for site in scenario.sites:
        store = create_store(folder / site, site)
        for task in scenario.plan.tasks:
            names, known = dealt.training[task.name].get(site, []), list_scans(store, task.name)
            _ingest_missing(store, dataset, names, known, task, on_case)
        check_label_dictionary(store, scenario.plan)
        painter = SimulatedAnnotator(scenario.plan, scenario.annotator, dealt.classes_painted)
        annotator = annotator_of(site, scenario.faults, painter)
        for task in painted_beforehand(scenario.plan):
            paint_asked_slices(store, scenario.plan, task, annotator)
        stores[site] = store
    return stores


def painted_beforehand(plan: FederationPlan) -> list[Task]:
    """The tasks whose slices do not depend on what the federation will have learned."""
    asks_later = plan.annotation.slice_choice == "doubt"
    return [task for task in plan.tasks if not (asks_later and plan.knows_classes_of(task))]


def gather_test_scans(
    scenario: Scenario, dataset: Dataset, dealt: Dealt, folder: Path, progress: Progress
) -> ScansToTestOn:
    """Ingests the test scans; those that a hospital in `folder`/sites holds as well are left out.

    Data sets do hold the same scan under two names (five of the 24 public mouse brains).
    """
    store = create_store(folder / "test", "test-scans")
    num_cases = len({name for names in dealt.test.values() for name in names})
    on_case = counted(progress, "test scans", num_cases)
    for task in scenario.plan.tasks:
        # Each once, whichever tasks it counts for.
        _ingest_missing(store, dataset, dealt.test[task.name], list_scans(store), task, on_case)
    check_label_dictionary(store, scenario.plan)
    trained_on = {
        volume_of(scan.scan_id)
        for site in scenario.sites
        for scan in list_scans(create_store(folder / "sites" / site, site))
    }
    everything = list_scans(store)
    fresh = [scan for scan in everything if volume_of(scan.scan_id) not in trained_on]
    return ScansToTestOn(store, fresh, dealt.test, len(everything) - len(fresh))


def _ingest_missing(
    store: Store,
    dataset: Dataset,
    names: Sequence[str],
    known: Sequence[CatalogScan],
    task: Task,
    on_case: Callable[[str], None],
) -> None:
    wanted = set(names) - {scan.case for scan in known}
    cases: list[Case] = [case for case in dataset.cases if case.name in wanted]
    ingest_cases(store, dataset, cases, task=task, on_case=on_case)


def _test_cases(scenario: Scenario, names: list[str], columns: Columns) -> list[str]:
    split = scenario.test
    groups = _groups(names, scenario.group_by, columns)
    if split.column is not None:
        chosen = {n for n in names if columns.get(n, {}).get(split.column) == split.value}
        torn = [group for group in groups if 0 < len(chosen & set(group)) < len(group)]
        if torn:
            raise SettingsError(
                f"{scenario.group_by} groups such as {torn[0]} lie on both sides of the split by "
                f"{split.column}: mend cases.csv"
            )
        return sorted(chosen)
    order = generator(scenario.seed, "test split").permutation(len(groups))
    num_test = max(1, round(split.share * len(groups)))
    return [name for place in order[:num_test] for name in groups[place]]


def _matches(name: str, deal: Deal, columns: Columns) -> bool:
    own = columns.get(name, {})
    return all(own.get(column) == value for column, value in deal.where.items())


def _groups(names: list[str], column: str | None, columns: Columns) -> list[list[str]]:
    """Names that share the column's value stay together (two scans of one patient)."""
    groups: dict[str, list[str]] = {}
    for name in sorted(names):
        key = columns.get(name, {}).get(column, name) if column is not None else name
        groups.setdefault(key, []).append(name)
    return list(groups.values())


def _explain_no_match(deal: Deal, columns: Columns, dataset: Dataset) -> str:
    found = {
        column: sorted({row.get(column, "") for row in columns.values()})[:8]
        for column in deal.where
    }
    return (
        f"task {deal.task!r} wants cases where {deal.where}; among the {len(dataset.cases)} cases "
        f"of {dataset.folder.name} cases.csv has {found or 'no such columns'}"
    )
