from collections.abc import Callable
from pathlib import Path

import pytest
from small_scenario import small_scenario

from client.store.annotations import latest_annotations
from client.store.layouts import Case, Dataset, find_cases
from client.store.scans import list_scans
from common.errors import SettingsError
from common.plan import FederationPlan
from common.scans import volume_of
from common.settings_file import parse_settings
from simulations.phantoms import write_phantoms
from simulations.progress import no_progress
from simulations.scenario import Deal, Scenario, Split
from simulations.sites import deal_cases, fill_sites, gather_test_scans, read_columns


def make_dataset(folder: Path, rows: list[str]) -> Dataset:
    (folder / "cases.csv").write_text("\n".join(["case,subject,vendor,split", *rows]))
    cases = tuple(Case(row.split(",")[0], (), None) for row in rows)
    return Dataset("plain", folder, cases, {}, 1)


def rows(count: int) -> list[str]:
    """Two scans of each subject; every fifth subject is a test subject; vendors in turn."""
    result = []
    for number in range(count):
        subject = number // 2
        split = "test" if subject % 5 == 0 else "train"
        result.append(f"c{number:02d},s{subject:02d},{'xy'[subject % 2]},{split}")
    return result


@pytest.fixture
def scenario() -> Callable[..., Scenario]:
    def make(**changes: object) -> Scenario:
        defaults = {"phantoms": None, "group_by": "subject"}
        return small_scenario().model_copy(update={**defaults, **changes})

    return make


def test_subjects_stay_together_and_nobody_trains_on_test_scans(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (Deal(task="scanner-1", part=(1, 2)), Deal(task="scanner-2", part=(2, 2)))
    dealt = deal_cases(scenario(deals=deals), dataset)
    places: dict[str, set[tuple[str, str]]] = {}
    for task, sites in dealt.training.items():
        for site, names in sites.items():
            for name in names:
                places.setdefault(f"s{int(name[1:]) // 2:02d}", set()).add((task, site))
    assert all(len(where) == 1 for where in places.values())
    assert len(places) == 16
    assert dealt.test["scanner-1"] == dealt.test["scanner-2"]
    assert not set(dealt.test["scanner-1"]) & {
        name for sites in dealt.training.values() for names in sites.values() for name in names
    }


def test_a_deal_may_have_few_of_its_tasks_classes_painted(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (
        Deal(task="scanner-1", part=(1, 2), classes=("head",)),
        Deal(task="scanner-1", part=(2, 2), classes=("body",)),
        Deal(task="scanner-1", part=(2, 2), classes=("head",)),
    )
    dealt = deal_cases(scenario(deals=deals), dataset)
    painted = [sorted(classes) for _, classes in sorted(dealt.classes_painted.items())]
    # The second half has both: two deals name one each.
    assert (painted.count(["head"]), painted.count(["body", "head"])) == (16, 16)
    values = small_scenario().model_dump()
    values["deals"][0]["classes"] = ("head", "tail")
    with pytest.raises(SettingsError, match=r"names classes \['tail'\], the task has \['head', 'b"):
        parse_settings(Scenario, values, "tails")


def test_sites_get_equal_shares(tmp_path: Path, scenario: Callable[..., Scenario]) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (
        Deal(task="scanner-1", where={"vendor": "x"}),
        Deal(task="scanner-2", where={"vendor": "y"}),
    )
    dealt = deal_cases(scenario(deals=deals), dataset)
    for sites in dealt.training.values():
        sizes = [len(names) for names in sites.values()]
        assert max(sizes) - min(sizes) <= 2


def test_the_seed_alone_decides(tmp_path: Path, scenario: Callable[..., Scenario]) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (Deal(task="scanner-1", part=(1, 2)), Deal(task="scanner-2", part=(2, 2)))
    first = deal_cases(scenario(deals=deals), dataset)
    assert deal_cases(scenario(deals=deals), dataset) == first
    assert deal_cases(scenario(deals=deals).with_seed(1), dataset) != first


def test_a_share_splits_without_a_column(tmp_path: Path, scenario: Callable[..., Scenario]) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (Deal(task="scanner-1", part=(1, 2)), Deal(task="scanner-2", part=(2, 2)))
    dealt = deal_cases(scenario(deals=deals, test=Split(share=0.25)), dataset)
    assert len(dealt.test["scanner-1"]) == 10


def test_a_value_that_nobody_has_is_refused_with_those_there_are(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    deals = (Deal(task="scanner-1", where={"vendor": "z"}), Deal(task="scanner-2"))
    with pytest.raises(SettingsError, match=r"'vendor': 'z'.*\['x', 'y'\]"):
        deal_cases(scenario(deals=deals), make_dataset(tmp_path, rows(10)))


def test_several_deals_of_a_task_come_together(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    one_by_one = (
        Deal(task="scanner-1", where={"vendor": "x"}),
        Deal(task="scanner-2", where={"vendor": "y"}, sites=("hospital-b",)),
    )
    apart = deal_cases(scenario(deals=one_by_one), dataset)
    both = tuple(deal.model_copy(update={"task": "scanner-1"}) for deal in one_by_one)
    together = deal_cases(scenario(deals=both), dataset)
    first, second = apart.training["scanner-1"], apart.training["scanner-2"]
    assert together.training == {
        "scanner-1": {
            "hospital-a": first["hospital-a"],
            "hospital-b": sorted([*first["hospital-b"], *second["hospital-b"]]),
        }
    }
    assert sorted(together.test["scanner-1"]) == sorted(
        [n for ns in apart.test.values() for n in ns]
    )


def test_a_site_may_get_a_case_for_two_tasks(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (
        Deal(task="scanner-1", classes=("head",)),
        Deal(task="scanner-2", classes=("body",)),
        Deal(task="scanner-2", where={"vendor": "x"}, classes=("head",)),
    )
    dealt = deal_cases(scenario(deals=deals), dataset)
    first, second = (dealt.training[name] for name in ("scanner-1", "scanner-2"))
    assert all(set(first[site]) <= set(second[site]) for site in first)
    assert dealt.test["scanner-1"] == dealt.test["scanner-2"]
    # What is painted is a matter of the task: in the second, of the vendor too.
    vendor = {name: row["vendor"] for name, row in read_columns(dataset).items()}
    for (task, name), classes in dealt.classes_painted.items():
        of_second = {"body", "head"} if vendor[name] == "x" else {"body"}
        assert classes == ({"head"} if task == "scanner-1" else of_second)


def test_a_test_case_of_tasks_with_other_windows_is_refused(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    values = small_scenario().model_dump()["plan"]
    looks = [{"modality": "CT", "window_hu": window} for window in ([-1000, 200], [-100, 300])]
    tasks = [{**task, **look} for task, look in zip(values["tasks"], looks, strict=True)]
    plan = FederationPlan.model_validate({**values, "tasks": tasks})
    dataset, sites = make_dataset(tmp_path, rows(40)), tuple(small_scenario().sites)
    apart = (
        Deal(task="scanner-1", where={"vendor": "x"}, sites=sites),
        Deal(task="scanner-2", where={"vendor": "y"}, sites=sites),
    )
    assert deal_cases(scenario(deals=apart, plan=plan), dataset).test["scanner-2"]
    shared = (apart[0], Deal(task="scanner-2"))
    message = r"'c00' counts for the tasks 'scanner-1' and 'scanner-2', whose modalities or windows"
    with pytest.raises(SettingsError, match=message):
        deal_cases(scenario(deals=shared, plan=plan), dataset)


def test_scans_of_two_tasks_are_painted_for_each_and_tested_once(tmp_path: Path) -> None:
    values = small_scenario().model_dump()
    cases = tmp_path / "cases"
    write_phantoms(cases, small_scenario())
    values["deals"] = [{**deal, "where": {}} for deal in values["deals"]]
    values["phantoms"] = None
    shared = parse_settings(Scenario, {**values, "test": {"share": 0.3}}, "shared")
    dataset = find_cases(cases)
    dealt = deal_cases(shared, dataset)
    stores = fill_sites(shared, dataset, dealt, tmp_path / "sites", no_progress)
    for store in stores.values():
        per_task = {task.name: list_scans(store, task.name) for task in shared.plan.tasks}
        first, second = ([volume_of(scan.scan_id) for scan in scans] for scans in per_task.values())
        assert first == second
        for scan in list_scans(store):
            (painted,) = latest_annotations(store, scan.scan_id)
            classes = shared.plan.class_indexes(shared.plan.task_named(scan.task))
            assert painted.looked_for == classes
    # Filled again after a kill, nothing is added.
    again = fill_sites(shared, dataset, dealt, tmp_path / "sites", no_progress)
    for name, store in again.items():
        assert len(list_scans(store)) == 2 * len(dealt.training["scanner-1"][name])
    test = gather_test_scans(shared, dataset, dealt, tmp_path, no_progress)
    names = dealt.test["scanner-1"]
    assert sorted(scan.case for scan in test.scans) == sorted(names)
    assert (test.case_names["scanner-2"], test.left_out) == (names, 0)
