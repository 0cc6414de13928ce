from collections.abc import Callable
from pathlib import Path

import pytest
from small_scenario import small_scenario

from client.store.layouts import Case, Dataset
from common.errors import SettingsError
from common.settings_file import parse_settings
from simulations.scenario import Deal, Scenario, Split
from simulations.sites import deal_cases


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
    painted = [sorted(dealt.classes_painted[name]) for name in sorted(dealt.classes_painted)]
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


def test_a_site_that_gets_a_case_for_two_tasks_is_refused(
    tmp_path: Path, scenario: Callable[..., Scenario]
) -> None:
    dataset = make_dataset(tmp_path, rows(40))
    deals = (Deal(task="scanner-1"), Deal(task="scanner-2", where={"vendor": "x"}))
    message = (
        r"hospital-. gets the case 'c\d\d' for the tasks 'scanner-1' and 'scanner-2', and a scan"
    )
    with pytest.raises(SettingsError, match=message):
        deal_cases(scenario(deals=deals), dataset)
