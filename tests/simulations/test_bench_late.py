"""A hospital that joins late, on phantoms: who has which scans in which federation."""

import pytest
from small_scenario import small_scenario

from client.store.layouts import Dataset, find_cases
from common.errors import SettingsError
from simulations.bench_late import (
    as_long_alone,
    left_out,
    newcomer_of,
    until_then,
    without,
)
from simulations.phantoms import write_phantoms
from simulations.scenario import Scenario, read_scenario
from simulations.sites import deal_cases

OTHERS = ["hospital-a", "hospital-b"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Six training scans of each of two scanners."""
    folder = tmp_path_factory.mktemp("phantoms")
    write_phantoms(folder, small_scenario())
    return find_cases(folder)


@pytest.fixture
def scenario() -> Scenario:
    """Two hospitals from the start; the third gets two of its three scans of the second scanner."""
    values = small_scenario(3).model_dump()
    first, second = ({"task": task["name"]} for task in values["plan"]["tasks"])
    for deal in (first, second):
        deal["where"] = {"task": deal["task"]}
    deals = [
        {**first, "sites": OTHERS},
        {**second, "part": [1, 2], "scans": 2, "sites": ["hospital-c"]},
        {**second, "part": [2, 2], "sites": OTHERS},
    ]
    test = {"column": "split", "value": "test"}
    changes = {"deals": deals, "phantoms": None, "test": test}
    return Scenario.model_validate({**values, **changes})


def test_a_deal_is_cut_short_and_the_rest_goes_to_nobody(
    scenario: Scenario, dataset: Dataset
) -> None:
    dealt = deal_cases(scenario, dataset).training
    task = scenario.plan.tasks[1].name
    assert [len(dealt[task][site]) for site in scenario.sites] == [2, 1, 2]
    rest = left_out(scenario, dataset).test
    assert [len(names) for names in rest.values()] == [0, 1]
    assert not set(rest[task]) & {name for names in dealt[task].values() for name in names}


def test_the_three_federations_differ_by_the_newcomer_alone(
    scenario: Scenario, dataset: Dataset
) -> None:
    before, away = until_then(scenario), without(scenario)
    assert newcomer_of(scenario) == "hospital-c"
    assert list(before.sites) == list(away.sites) == OTHERS
    assert (before.plan.limits.hospitals, len(before.plan.tasks)) == (2, 1)
    joined, alone = deal_cases(scenario, dataset).training, deal_cases(away, dataset).training
    for task, sites in alone.items():
        assert {site: joined[task][site] for site in OTHERS} == sites
    assert as_long_alone(scenario).plan.tasks[-1].rounds == scenario.plan.num_rounds


def test_a_scenario_without_a_newcomer_is_refused() -> None:
    assert newcomer_of(read_scenario("hippocampus_late")) == "newcomer"
    with pytest.raises(SettingsError, match=r"gets scans of .* by a deal of its own; got \["):
        newcomer_of(read_scenario("hippocampus_stream"))
