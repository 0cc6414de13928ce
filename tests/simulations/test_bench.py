"""The arms of the comparison of labels."""

from itertools import combinations

from simulations.bench import ALL_PARTS, LABEL_ARMS, _changed
from simulations.scenario import read_scenario

LENGTH = (10, 24)


def test_no_two_arms_are_the_same_federation() -> None:
    scenario = read_scenario("hippocampus_stream")
    plans = {
        arm: _changed(scenario, changes, LENGTH, 0).plan for arm, changes in LABEL_ARMS.items()
    }
    for one, other in combinations(plans, 2):
        assert plans[one] != plans[other], f"{one!r} and {other!r} are one plan"


def test_each_but_lacks_one_part_of_all() -> None:
    scenario = read_scenario("hippocampus_stream")
    whole = _changed(scenario, ALL_PARTS, LENGTH, 0).plan.model_dump()
    for arm in (arm for arm in LABEL_ARMS if arm.startswith("all but")):
        plan = _changed(scenario, LABEL_ARMS[arm], LENGTH, 0).plan.model_dump()
        changed = {
            name
            for section in LABEL_ARMS[arm]
            for name, value in plan[section].items()
            if value != whole[section][name]
        }
        # What is learned is a candidate, and has rounds and steps of its own.
        wanted = 3 if arm == "all but learned" else 1
        assert len(changed) == wanted, (arm, changed)
        assert plan["training"] == whole["training"]


def test_an_arm_has_the_length_and_the_seed_it_was_asked_for() -> None:
    plan = _changed(read_scenario("hippocampus_stream"), ALL_PARTS, (3, 7), 5).plan
    assert {task.rounds for task in plan.tasks} == {3}
    assert (plan.training.steps_per_round, plan.seed) == (7, 5)
