"""What each arm changes, on scenarios that come with OneSlice and on one with every part on."""

import csv
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
from small_scenario import small_scenario

from client.store.layouts import Case, Dataset
from common.errors import SettingsError
from common.settings_file import differences
from simulations.arms import ARMS, PER_HOSPITAL, with_plan
from simulations.compare import (
    CompareSettings,
    choose,
    describe_arms,
    in_order,
    reasons_against,
    shortened,
)
from simulations.compare_run import Order
from simulations.scenario import Scenario, read_scenario, scenario_names
from simulations.sites import deal_cases

EVERY_PART: dict[str, Any] = {
    "annotation": {"slice_choice": "doubt"},
    "propagation": {
        "candidates": ["patches", "correspondence"],
        "reach_slices": 3,
        "segmenter_from": 0.7,
    },
    "correspondence": {"rounds": 2},
    "retention": {
        "old_classes": "distilled",
        "replay_distillation": 1.0,
        "current_distillation": 0.5,
        "elastic_weight": 2.0,
    },
    "few_labels": {
        "synthesis": {"share": 0.5},
        "prototypes": {"weight": 0.1},
        "pseudo_labels": {"weight": 1.0},
    },
}


def arm_named(name: str, scenario: Scenario) -> Scenario:
    return next(arm for arm in ARMS if arm.name == name).changed(scenario)


def settings(**values: object) -> CompareSettings:
    return CompareSettings.model_validate(values)


def drawn(name: str) -> Scenario:
    return in_order(read_scenario(name), "given")


def hearts(folder: Path) -> Dataset:
    """Twelve subjects of two scans each, of two vendors; one of each is a test subject."""
    names = []
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case", "subject", "site", "split"])
        for number in range(24):
            subject = number // 2
            vendor = ("siemens", "philips")[subject // 2 % 2]
            split = "test" if subject in (3, 5) else "train"
            writer.writerow([f"c{number:02d}", f"s{subject:02d}", vendor, split])
            names.append(f"c{number:02d}")
    return Dataset("plain", folder, tuple(Case(name, (), None) for name in names), {}, 1)


def test_names_differ_and_each_says_what_it_is_in_a_line() -> None:
    assert len({arm.name for arm in ARMS}) == len(ARMS)
    assert all(0 < len(arm.what) <= 75 and "\n" not in arm.what for arm in ARMS)


@pytest.mark.parametrize("name", scenario_names())
def test_no_two_arms_of_a_scenario_are_the_same_federation(name: str) -> None:
    scenario = drawn(name)
    chosen = choose(scenario, settings())
    plans = {arm.name: arm.changed(scenario) for arm in chosen.arms if not arm.alone}
    for one, other in combinations(plans, 2):
        assert plans[one] != plans[other], f"{one!r} and {other!r} are one"
    of_several_tasks = {"joint"} if len(scenario.plan.tasks) > 1 else set()
    assert chosen.orders == (("given", "reversed") if of_several_tasks else ("given",))
    always = {"as-is", "local-only", "full-labels"}
    paints_all = scenario.plan.annotation.scans is None
    assert ("centralised" in {arm.name for arm in chosen.arms}) == paints_all
    assert always | of_several_tasks <= {arm.name for arm in chosen.arms}


def test_an_arm_takes_away_one_part_and_nothing_else() -> None:
    whole = with_plan(drawn("hippocampus_classes"), EVERY_PART)
    assert set(reasons_against(whole)) == {"fedavg"}
    taken = {arm.name: arm.changed(whole) for arm in ARMS if arm.name.startswith("no-")}
    changed = {name: differences(whole, scenario) for name, scenario in taken.items()}
    # What is learned is a candidate, and has rounds of its own.
    learned = changed.pop("no-correspondence")
    assert learned.count(" there, ") == 2
    assert all(told.count(" there, ") == 1 for told in changed.values()), changed
    assert changed["no-synthesis"] == "plan.few_labels.synthesis.share (0.5 there, 0.0 here)"
    assert changed["no-old-model"] == "plan.retention.old_classes (distilled there, merged here)"


def test_a_part_that_is_off_cannot_be_taken_away() -> None:
    reasons = reasons_against(drawn("hippocampus_stream"))
    for name in (
        "no-synthesis",
        "no-pseudo-labels",
        "no-mixing",
        "no-smoothing",
        "no-spreading",
        "fedavg",
    ):
        assert reasons[name] == "changes nothing here"
    # All its tasks have the same classes: there are no old ones to forget in a way of their own.
    assert reasons["fine-tuning"] == "the same as no-replay here"
    assert "fine-tuning" not in reasons_against(drawn("hippocampus_classes"))


def test_plain_fine_tuning_has_no_memory_and_calls_old_classes_background() -> None:
    whole = with_plan(drawn("hippocampus_classes"), EVERY_PART)
    plan = arm_named("fine-tuning", whole).plan
    assert plan.replay.budget_scans == 0
    assert plan.retention.model_dump() == {
        "old_classes": "background",
        "replay_distillation": 0,
        "current_distillation": 0,
        "elastic_weight": 0,
    }


def test_ewc_and_lwf_retain_by_one_thing_each_and_replay_nothing() -> None:
    whole = with_plan(drawn("hippocampus_classes"), EVERY_PART)
    ewc, lwf = (arm_named(name, whole).plan for name in ("ewc", "lwf"))
    assert ewc.retention.model_dump() == {
        "old_classes": "merged",
        "replay_distillation": 0,
        "current_distillation": 0,
        "elastic_weight": 1e5,
    }
    # Nothing is drawn from memory; it only tells which weights matter.
    assert (ewc.replay.share, ewc.replay.budget_scans) == (0, whole.plan.replay.budget_scans)
    assert lwf.retention.model_dump() == {
        "old_classes": "merged",
        "replay_distillation": 0,
        "current_distillation": 1,
        "elastic_weight": 0,
    }
    assert lwf.replay.budget_scans == 0


def test_one_hospital_in_the_place_of_all_has_all_they_had(tmp_path: Path) -> None:
    scenario = drawn("cardiac_vendors")
    few = [one.model_copy(update={"scans": 1}) for one in scenario.deals]
    scenario = scenario.model_copy(update={"deals": tuple(few)})
    central, dataset = arm_named("centralised", scenario), hearts(tmp_path)
    assert central.sites == ("everybody",)
    assert (central.plan.limits.hospitals, central.plan.limits.quorum) == (1, 1)
    for section, name in PER_HOSPITAL:
        before, after = (getattr(getattr(one.plan, section), name) for one in (scenario, central))
        assert after == (None if before is None else 4 * before), name
    dealt, gathered = deal_cases(scenario, dataset), deal_cases(central, dataset)
    assert dealt.test == gathered.test
    for task, per_site in dealt.training.items():
        everything = sorted(name for names in per_site.values() for name in names)
        assert gathered.training[task] == {"everybody": everything}


@pytest.mark.parametrize("name", ["cardiac_vendors", "cardiac_classes", "cardiac_again"])
def test_joint_training_has_every_hospitals_scans_in_one_stage(name: str, tmp_path: Path) -> None:
    scenario, dataset = drawn(name), hearts(tmp_path)
    joint = arm_named("joint", scenario)
    assert joint == arm_named("joint", in_order(scenario, "reversed"))
    (task,) = joint.plan.tasks
    assert task.classes == ("LV", "MYO", "RV")
    assert task.rounds == joint.plan.num_rounds == scenario.plan.num_rounds
    dealt, together = deal_cases(scenario, dataset), deal_cases(joint, dataset)
    for site in scenario.sites:
        streamed = [one for sites in dealt.training.values() for one in sites.get(site, [])]
        assert together.training["joint"].get(site, []) == sorted(set(streamed))
    assert sorted(together.test["joint"]) == sorted({c for cs in dealt.test.values() for c in cs})


@pytest.mark.parametrize("order", ["given", "reversed"])
def test_joint_training_can_have_the_labels_of_the_stream(order: Order, tmp_path: Path) -> None:
    scenario, dataset = in_order(drawn("cardiac_classes"), order), hearts(tmp_path)
    joint = arm_named("joint-same-labels", scenario)
    assert joint.plan == arm_named("joint", scenario).plan
    streamed = deal_cases(scenario, dataset)
    own = {"lv": {"LV"}, "myo": {"MYO"}, "rv": {"RV"}}
    expected = {
        ("joint", name): own[task]
        for task, per_site in streamed.training.items()
        for names in per_site.values()
        for name in names
    }
    assert deal_cases(joint, dataset).classes_painted == expected
    assert len({frozenset(classes) for classes in expected.values()}) == 3
    # Where every task has all classes painted, it is joint training.
    assert "the same as joint" in reasons_against(drawn("cardiac_vendors"))["joint-same-labels"]
    # The same, where the stream's deals name what is painted.
    deals = [one.model_copy(update={"classes": tuple(own[one.task])}) for one in scenario.deals]
    named = scenario.model_copy(update={"deals": tuple(deals)})
    assert arm_named("joint", named) == arm_named("joint", scenario)
    assert arm_named("joint-same-labels", named) == joint


def test_what_is_dealt_again_for_each_task_is_dealt_once_to_joint_training() -> None:
    again = drawn("cardiac_again")
    (deal,) = arm_named("joint", again).deals
    assert (deal.task, deal.where, deal.classes) == ("joint", {}, ())
    assert reasons_against(again)["joint-same-labels"] == "the same as joint here"
    few = again.model_copy(update={"deals": again.deals[:2]})
    (deal,) = arm_named("joint-same-labels", few).deals
    assert deal.classes == ("LV", "MYO")


def test_tasks_of_different_looks_cannot_be_joint() -> None:
    scenario = drawn("hippocampus_stream")
    tasks = scenario.model_dump()["plan"]["tasks"]
    tasks[1]["plane"] = "axial"
    mixed = with_plan(scenario, {"tasks": tasks})
    assert "differ in modality, plane" in reasons_against(mixed)["joint"]
    with pytest.raises(SettingsError, match=r"'hippocampus_stream' has no joint: its tasks differ"):
        choose(mixed, settings(arms=["joint"]))
    assert "joint" not in [arm.name for arm in choose(mixed, settings()).arms]


def test_where_the_first_scans_that_come_are_painted_nothing_is_put_together() -> None:
    scenario = with_plan(drawn("cardiac_classes"), {"annotation": {"scans": 2}})
    reasons = reasons_against(scenario)
    for name in ("centralised", "joint", "joint-same-labels"):
        assert "others come first" in reasons[name]


def test_both_orders_give_each_task_the_same_scans(tmp_path: Path) -> None:
    given, dataset = drawn("cardiac_classes"), hearts(tmp_path)
    backwards = in_order(given, "reversed")
    assert [task.name for task in backwards.plan.tasks] == ["rv", "myo", "lv"]
    assert deal_cases(backwards, dataset) == deal_cases(given, dataset)
    assert in_order(backwards, "reversed") == given


def test_one_task_has_one_order_and_one_hospital_is_never_alone() -> None:
    alone = arm_named("centralised", arm_named("joint", drawn("hippocampus_stream")))
    chosen = choose(alone, settings())
    assert chosen.orders == ("given",)
    assert chosen.left_out["reversed"] == "there is one task, so there is one order"
    assert chosen.left_out["local-only"] == "there is one hospital only"
    assert chosen.left_out["joint"] == chosen.left_out["centralised"] == "changes nothing here"
    with pytest.raises(SettingsError, match=r"has no reversed: there is one task"):
        choose(alone, settings(orders=["reversed"]))


def test_what_was_asked_for_must_exist_and_make_sense() -> None:
    with pytest.raises(SettingsError, match=r"no arm is called 'nothing'; there are as-is, local"):
        choose(small_scenario(), settings(arms=["nothing"]))
    with pytest.raises(SettingsError, match=r"'small' has no no-synthesis: changes nothing here"):
        choose(small_scenario(), settings(arms=["no-synthesis"]))
    chosen = choose(small_scenario(), settings(arms=["no-replay"]))
    assert [arm.name for arm in chosen.arms] == ["as-is", "no-replay"]


def test_a_shortened_scenario_has_fewer_rounds_and_steps() -> None:
    plan = shortened(read_scenario("hippocampus_stream"), settings(rounds=2, steps=6)).plan
    assert [task.rounds for task in plan.tasks] == [2, 2, 2]
    # 8 of 24 steps are the student's share.
    assert (plan.training.steps_per_round, plan.training.student_steps_per_round) == (6, 2)
    assert shortened(small_scenario(), settings()) == small_scenario()


def test_the_list_says_what_runs_and_what_does_not() -> None:
    lines = describe_arms(small_scenario(), settings(arms=["no-replay"], seeds=2)).splitlines()
    assert lines[0].split(maxsplit=1) == ["as-is", ARMS[0].what]
    assert any(line.endswith("[left out: changes nothing here]") for line in lines)
    assert lines[-1] == "2 arms x 2 orders x 2 seeds"
