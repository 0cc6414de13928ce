from pathlib import Path

import pytest
from small_scenario import small_scenario

from common.errors import SettingsError
from common.networks.unet import (
    SEGMENTER,
    STUDENT,
    build_networks,
    count_parameters,
    networks_to_arrays,
)
from simulations.scenario import read_scenario, scenario_names


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_holds(name: str) -> None:
    scenario = read_scenario(name)
    assert scenario.name == scenario.plan.name == name


@pytest.mark.parametrize("name", ["hippocampus_stream", "cardiac_vendors"])
def test_the_student_has_an_eighth_of_the_segmenters_weights_at_most(name: str) -> None:
    arrays = networks_to_arrays(build_networks(read_scenario(name).plan))
    assert 8 * count_parameters(arrays, STUDENT) <= count_parameters(arrays, SEGMENTER)


def test_the_named_scenarios_are_there() -> None:
    assert set(scenario_names()) == {
        "phantoms",
        "hippocampus_stream",
        "hippocampus_classes",
        "hippocampus_few",
        "hippocampus_late",
        "cardiac_vendors",
        "cardiac_classes",
        "cardiac_few",
        "cardiac_again",
    }


def test_an_unknown_scenario_is_refused_with_those_there_are() -> None:
    with pytest.raises(SettingsError, match=r"'nonsense'.*cardiac_classes.*path of a TOML"):
        read_scenario("nonsense")


def test_an_unknown_key_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    path = tmp_path / "one.toml"
    path.write_text('name = "x"\nsite = ["a"]\n')
    with pytest.raises(SettingsError, match=r"site = .*unknown key; allowed here: .*sites"):
        read_scenario(str(path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sites": ["a", "a"]}, "sites must differ"),
        ({"faults": [{"site": "nobody", "kind": "nan"}]}, r"\['nobody'\] are not among"),
        ({"deals": []}, "deals"),
        ({"deals": [{"task": "scanner-1"}]}, r"deals are for tasks \['scanner-1'\]; the plan has"),
        (
            {"deals": [{"task": f"scanner-{number}"} for number in (1, 2, 2)]},
            "phantoms are drawn deal by deal",
        ),
        ({"test": {"column": "split"}}, "come together"),
    ],
)
def test_values_that_contradict_each_other_are_refused(
    changes: dict[str, object], message: str
) -> None:
    values = small_scenario().model_dump()
    with pytest.raises(ValueError, match=message):
        type(small_scenario()).model_validate({**values, **changes})


def test_another_seed_changes_plan_and_scenario() -> None:
    one, other = small_scenario(), small_scenario().with_seed(5)
    assert other.seed == other.plan.seed == 5
    assert one.plan.federation != other.plan.federation
