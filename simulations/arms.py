"""The arms of a comparison: a scenario as it is, and the same scenario with one thing different.

An arm that changes nothing in a scenario, because what it takes away is off there, has no place in
its comparison.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import SettingsError
from common.settings_file import parse_settings
from simulations.scenario import Deal, Scenario

Changed = Callable[[Scenario], Scenario]
REFERENCE = "as-is"
JOINT = "joint"
# By themselves, elastic weight consolidation and learning without forgetting are as strong as this.
ELASTIC_WEIGHT, OLD_MODEL_WEIGHT = 1e5, 1.0
# What a plan says of each hospital, and one hospital in the place of all has that many times.
PER_HOSPITAL = (
    ("training", "steps_per_round"),
    ("training", "student_steps_per_round"),
    ("correspondence", "steps"),
    ("distillation", "registration_steps"),
    ("replay", "budget_scans"),
    ("replay", "budget_mb"),
)


@dataclass(frozen=True)
class Arm:
    """One way to run a scenario.

    Attributes:
        name: what the table calls it.
        what: what it is, in one line.
        changed: the scenario that is run for it; raises SettingsError where it makes no sense.
        alone: every hospital runs it without the others.
    """

    name: str
    what: str
    changed: Changed
    alone: bool = False


def with_plan(scenario: Scenario, changes: Mapping[str, Any]) -> Scenario:
    """The scenario with some settings of its plan replaced, the others beside them kept.

    Raises:
        SettingsError: the changed plan does not hold.
    """
    values = scenario.model_dump()
    values["plan"] = _merged(values["plan"], changes)
    return parse_settings(Scenario, values, f"scenario {scenario.name!r}, changed")


def _merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **values,
        **{
            key: _merged(values[key], change) if isinstance(change, Mapping) else change
            for key, change in changes.items()
        },
    }


def _plan(**changes: dict[str, Any]) -> Changed:
    return lambda scenario: with_plan(scenario, changes)


def _as_it_is(scenario: Scenario) -> Scenario:
    return scenario


def _centralised(scenario: Scenario) -> Scenario:
    """One hospital, with the steps and the memory of all of them; nobody to be private from."""
    number = len(scenario.sites)
    if number == 1:
        return scenario
    _check_all_painted(scenario)
    values = scenario.model_dump()
    plan = values["plan"]
    for section, name in PER_HOSPITAL:
        if plan[section][name] is not None:
            plan[section][name] *= number
    plan["limits"].update(hospitals=1, quorum=1)
    plan.update(strategy={}, privacy={})
    deals = [
        {
            **deal,
            "sites": (),
            "scans": deal["scans"] and deal["scans"] * len(deal["sites"] or values["sites"]),
        }
        for deal in values["deals"]
    ]
    values.update(sites=["everybody"], deals=deals, faults=())
    return parse_settings(Scenario, values, f"scenario {scenario.name!r}, centralised")


def _check_all_painted(scenario: Scenario) -> None:
    if scenario.plan.annotation.scans is not None:
        raise SettingsError(
            "annotation.scans has the first ones painted that came, and of more scans in one place "
            "others come first: it would compare other labels"
        )


def _joint(scenario: Scenario) -> Scenario:
    """One task whose deals are those of all tasks, so that every hospital has the same scans."""
    tasks = scenario.plan.tasks
    if len(tasks) == 1:
        return scenario
    _check_all_painted(scenario)
    looks = {(task.modality, task.plane, task.window_hu) for task in tasks}
    if len(looks) > 1:
        raise SettingsError(
            "its tasks differ in modality, plane or window, and one task has one of each"
        )
    values = scenario.model_dump()
    together: dict[str, Any] = {
        "name": JOINT,
        "classes": [label.name for label in scenario.plan.labels],
        "rounds": sum(task.rounds for task in tasks),
    }
    values["plan"]["tasks"] = [{**values["plan"]["tasks"][0], **together}]
    everything = together["classes"]
    values["deals"] = _deals_of_one_task(scenario, lambda _: everything)
    return parse_settings(Scenario, values, f"scenario {scenario.name!r}, joint")


def _deals_of_one_task(
    scenario: Scenario, painted_in: Callable[[Deal], Sequence[str]]
) -> list[dict[str, Any]]:
    """All tasks' deals as those of one; what several deal alike is dealt once, painted for all."""
    alike: dict[str, tuple[Deal, set[str]]] = {}
    for deal in scenario.deals:
        one = deal.model_copy(update={"task": JOINT, "classes": ()})
        _, painted = alike.setdefault(one.model_dump_json(), (one, set()))
        painted.update(painted_in(deal))
    names = [label.name for label in scenario.plan.labels]
    return [
        {
            **deal.model_dump(),
            "classes": () if painted >= set(names) else [n for n in names if n in painted],
        }
        for deal, painted in alike.values()
    ]


def _joint_same_labels(scenario: Scenario) -> Scenario:
    """As `_joint`, but each scan has the classes painted that it has in the stream."""
    classes_of = {task.name: task.classes for task in scenario.plan.tasks}
    values = _joint(scenario).model_dump()
    if len(scenario.plan.tasks) > 1:
        values["deals"] = _deals_of_one_task(
            scenario, lambda deal: deal.classes or classes_of[deal.task]
        )
    return parse_settings(Scenario, values, f"scenario {scenario.name!r}, joint, same labels")


def _retained(old_classes: str, replay: dict[str, Any], **kept: float) -> Changed:
    """Nothing but `kept` retains: no replay, by these settings, and no other help for old tasks."""
    nothing = {"replay_distillation": 0.0, "current_distillation": 0.0, "elastic_weight": 0.0}

    def changed(scenario: Scenario) -> Scenario:
        retention: dict[str, Any] = {**nothing, **kept}
        # Where all tasks have the same classes none is ever old, and nothing to be said about it.
        if len({frozenset(task.classes) for task in scenario.plan.tasks}) > 1:
            retention["old_classes"] = old_classes
        return with_plan(scenario, {"replay": replay, "retention": retention})

    return changed


def _without_old_model(scenario: Scenario) -> Scenario:
    if scenario.plan.retention.old_classes != "distilled":
        return scenario
    return with_plan(scenario, {"retention": {"old_classes": "merged"}})


def _without_mixing(scenario: Scenario) -> Scenario:
    """Only batches with pseudo-labels are mixed: without them there is nothing to take away."""
    if scenario.plan.few_labels.pseudo_labels.weight == 0:
        return scenario
    return with_plan(scenario, {"few_labels": {"pseudo_labels": {"mixed_share": 0.0}}})


def _without_correspondence(scenario: Scenario) -> Scenario:
    named = scenario.plan.propagation.candidates
    others = tuple(one for one in named if one != "correspondence") or ("patches",)
    changes = {"propagation": {"candidates": others}, "correspondence": {"rounds": 0}}
    return scenario if others == named else with_plan(scenario, changes)


def _without_smoothing(scenario: Scenario) -> Scenario:
    """Doubt is where nobody painted: without that and with sharp boundaries nothing is smoothed."""
    plan = scenario.plan
    spreads = plan.propagation.reach_slices > 0 or plan.propagation.segmenter_from is not None
    if not spreads and plan.training.boundary_smoothing_voxels == 0:
        return scenario
    sharp = {"smoothing_max": 0.0, "boundary_smoothing_voxels": 0.0}
    return with_plan(scenario, {"training": sharp})


# Labels are what was painted: nothing is spread, no segmenter joins, nothing is learned for it.
PAINTED: dict[str, Any] = {
    "propagation": {"candidates": ("patches",), "reach_slices": 0, "segmenter_from": None},
    "correspondence": {"rounds": 0},
}
NO_MEMORY = {"budget_scans": 0}
NO_SYNTHESIS = {"synthesis": {"share": 0.0}}
NO_PROTOTYPES = {"prototypes": {"weight": 0.0}}
NO_PSEUDO_LABELS = {"pseudo_labels": {"weight": 0.0}}

ARMS = (
    Arm(REFERENCE, "the scenario as it is; all others are compared with it", _as_it_is),
    Arm(
        "local-only", "every hospital alone, with the same steps; means over them", _as_it_is, True
    ),
    Arm("centralised", "one hospital with all scans, steps and memory of all", _centralised),
    Arm("joint", "all tasks in one stage, all classes painted, as many rounds", _joint),
    Arm(
        "joint-same-labels",
        "all tasks in one stage, each scan painted for its own task only",
        _joint_same_labels,
    ),
    Arm(
        "full-labels",
        "every slice of every scan painted",
        _plan(**PAINTED, annotation={"slice_choice": "every"}),
    ),
    Arm(
        "painted-only",
        "the painted slices alone: nothing spread, made up or guessed",
        _plan(**PAINTED, few_labels={**NO_SYNTHESIS, **NO_PROTOTYPES, **NO_PSEUDO_LABELS}),
    ),
    Arm("fedavg", "FedAvg in place of the plan's strategy", _plan(strategy={"name": "FedAvg"})),
    Arm("fedprox", "FedProx in place of the plan's strategy", _plan(strategy={"name": "FedProx"})),
    Arm("no-replay", "no memory of earlier tasks", _plan(replay=NO_MEMORY)),
    Arm(
        "fine-tuning",
        "no memory, nothing retains, what was not looked for is background",
        _retained("background", NO_MEMORY),
    ),
    Arm(
        "ewc",
        "no replay; weights held, by the Fisher information of the scans in memory",
        _retained("merged", {"share": 0.0}, elastic_weight=ELASTIC_WEIGHT),
    ),
    Arm(
        "lwf",
        "no memory; outputs on the new scans held to the old model's",
        _retained("merged", NO_MEMORY, current_distillation=OLD_MODEL_WEIGHT),
    ),
    Arm("no-old-model", "old classes are not taken from the old model", _without_old_model),
    Arm(
        "no-replay-distillation",
        "outputs on replayed scans are free",
        _plan(retention={"replay_distillation": 0.0}),
    ),
    Arm(
        "no-current-distillation",
        "outputs on the new scans are free",
        _plan(retention={"current_distillation": 0.0}),
    ),
    Arm("no-elastic-weights", "weights are free", _plan(retention={"elastic_weight": 0.0})),
    Arm("no-synthesis", "no pasted structures", _plan(few_labels=NO_SYNTHESIS)),
    Arm("no-prototypes", "no contrast", _plan(few_labels=NO_PROTOTYPES)),
    Arm("no-pseudo-labels", "what nobody painted has no label", _plan(few_labels=NO_PSEUDO_LABELS)),
    Arm("no-mixing", "batches with pseudo-labels as they were drawn", _without_mixing),
    Arm("no-smoothing", "labels as they are, in doubt and at boundaries", _without_smoothing),
    Arm(
        "no-slice-choice",
        "slices evenly spread over the scans, whatever they show",
        _plan(annotation={"slice_choice": "spread"}),
    ),
    Arm("no-spreading", "spread labels do not count", _plan(propagation={"reach_slices": 0})),
    Arm("no-joining", "no segmenter in the labels", _plan(propagation={"segmenter_from": None})),
    Arm("no-correspondence", "no learned network spreads labels", _without_correspondence),
)
