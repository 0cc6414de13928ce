"""What a plan that goes on may change, and what it may not."""

from collections.abc import Callable
from typing import Any

import pytest

from common.errors import SettingsError
from common.plan import FederationPlan
from common.plan_growth import check_growth

Values = dict[str, Any]
Grow = Callable[..., FederationPlan]


@pytest.fixture
def grow(plan: FederationPlan, plan_values: Values) -> Grow:
    """The plan with a label and a task more, going on after its last round; `changes` besides."""

    def make(**changes: Any) -> FederationPlan:
        third = {"name": "vessel", "index": 3}
        task = {**plan_values["tasks"][0], "name": "fourth", "classes": ["vessel"], "rounds": 2}
        grown = {
            **plan_values,
            "extends": {"federation": plan.federation, "round": 6},
            "labels": [*plan_values["labels"], third],
            "tasks": [*plan_values["tasks"], task],
        }
        return FederationPlan.model_validate({**grown, **changes})

    return make


def test_labels_and_tasks_may_be_appended(plan: FederationPlan, grow: Grow) -> None:
    check_growth(plan, grow(), 6)


def test_how_it_trains_may_change_freely(plan: FederationPlan, grow: Grow) -> None:
    changed = grow(
        seed=5,
        training={"patch_size": [16, 8, 8], "learning_rate": 0.1},
        replay={"policy": "hard", "budget_scans": 2},
        strategy={"name": "FedAdam"},
        retention={"old_classes": "distilled"},
        limits={"hospitals": 2},
    )
    check_growth(plan, changed, 6)


LABELS = [{"name": "organ", "index": 1}, {"name": "left lobe", "index": 2}]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS[:1], r"label 'left lobe' \(index 2\) is missing"),
        ([LABELS[0], {"name": "tumour", "index": 2}], "label 2 was called 'left lobe', here 'tum"),
        (
            [{"name": "left lobe", "index": 1}, {"name": "organ", "index": 2}],
            "label 'organ' had the index 1, here it has 2(.|\n)*'left lobe' had the index 2",
        ),
    ],
)
def test_a_label_is_neither_removed_nor_renamed_nor_moved(
    plan: FederationPlan, grow: Grow, labels: list[Values], message: str
) -> None:
    names = [label["name"] for label in labels]
    tasks = [
        {**task.model_dump(), "classes": [n for n in task.classes if n in names] or names[:1]}
        for task in plan.tasks
    ]
    tasks.append({**tasks[0], "name": "fourth"})
    with pytest.raises(SettingsError, match=rf"{message}(.|\n)*new ones are appended"):
        check_growth(plan, grow(labels=labels, tasks=tasks), 6)


def test_a_code_is_added_to_a_label_and_never_changed(
    plan: FederationPlan, grow: Grow, plan_values: Values
) -> None:
    def coded(code: str | None) -> list[Values]:
        return [{**LABELS[0], "snomed": code}, LABELS[1], {"name": "vessel", "index": 3}]

    check_growth(plan, grow(labels=coded("123")), 6)
    before = FederationPlan.model_validate({**plan_values, "labels": coded("123")[:2]})
    for code in ("124", None):
        with pytest.raises(SettingsError, match=r"'organ' had the SNOMED code 123, here it has"):
            check_growth(before, grow(labels=coded(code)), 6)


def test_a_trained_task_stays_as_it_was(plan: FederationPlan, grow: Grow) -> None:
    tasks = [task.model_dump() for task in grow().tasks]
    with pytest.raises(SettingsError, match=r"'second' \(number 2\) is different: rounds \(1 th"):
        check_growth(plan, grow(tasks=[tasks[0], {**tasks[1], "rounds": 9}, *tasks[2:]]), 6)
    with pytest.raises(SettingsError, match=r"'second' \(number 2\) is different(.|\n)*'third'"):
        check_growth(plan, grow(tasks=[tasks[0], *tasks[2:], {**tasks[1], "name": "new"}]), 6)
    long = [tasks[0], {**tasks[1], "rounds": 9}]
    with pytest.raises(SettingsError, match=r"the trained task 'third' \(number 3\) is missing"):
        check_growth(plan, grow(tasks=long), 6)


def test_a_task_that_has_not_begun_may_change(plan: FederationPlan, grow: Grow) -> None:
    tasks = [task.model_dump() for task in grow().tasks]
    changed = grow(
        tasks=[*tasks[:2], tasks[3]], extends={"federation": plan.federation, "round": 3}
    )
    # Rounds 1 and 2 are the first task's, 3 is the second's; with round 4 the third has begun.
    check_growth(plan, changed, 3)
    with pytest.raises(SettingsError, match=r"the trained task 'third' \(number 3\) is different"):
        check_growth(plan, changed, 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "channels was 1, here it is 2"),
        (
            {"segmenter": {"channels": [4, 16], "strides": [2]}},
            r"\[segmenter\] is different: channels\[1\] \(8 there, 16 here\)",
        ),
        ({"student": {"channels": [4, 4], "strides": [2]}}, r"\[student\] is different"),
        (
            {
                "correspondence": {"rounds": 1},
                "propagation": {"candidates": ["correspondence"]},
            },
            r"\[correspondence\] is different: rounds \(0 there, 1 here\)",
        ),
        (
            {"training": {"patch_size": [16, 8, 8], "held_back_share": 0.25}},
            "training.held_back_share was 0.1, here it is 0.25",
        ),
        (
            {"privacy": {"clipping_norm": 1.0, "noise_multiplier": 1.0}},
            r"\[privacy\] is different: .*with one noise",
        ),
    ],
)
def test_sizes_and_noise_stay(
    plan: FederationPlan, grow: Grow, changes: Values, message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        check_growth(plan, grow(**changes), 6)


def test_prototypes_that_both_have_keep_their_sizes(
    plan: FederationPlan, grow: Grow, plan_values: Values
) -> None:
    def prototypes(**settings: float) -> Values:
        return {"few_labels": {"prototypes": settings}}

    check_growth(plan, grow(**prototypes(weight=0.1, background=2)), 6)
    before = FederationPlan.model_validate({**plan_values, **prototypes(weight=0.1)})
    check_growth(before, grow(**prototypes(weight=0.3, momentum=0.5)), 6)
    with pytest.raises(SettingsError, match=r"prototypes\] is different: background \(4 there, 2"):
        check_growth(before, grow(**prototypes(weight=0.1, background=2)), 6)


def test_all_that_may_not_be_is_told_at_once(plan: FederationPlan, grow: Grow) -> None:
    labels = [{"name": "kidney", "index": 1}, LABELS[1], {"name": "vessel", "index": 3}]
    tasks = [
        {**task.model_dump(), "classes": [{"organ": "kidney"}.get(n, n) for n in task.classes]}
        for task in grow().tasks
    ]
    with pytest.raises(SettingsError) as caught:
        check_growth(plan, grow(labels=labels, tasks=tasks, channels=3), 6)
    told = str(caught.value)
    assert "label 1 was called 'organ', here 'kidney'" in told
    assert "'first' (number 1) is different" in told
    assert "channels was 1" in told
    assert plan.federation in told
