"""Which plans are refused, and the arithmetic of stages."""

from typing import Any

import pytest
from pydantic import ValidationError

from common.errors import SettingsError
from common.plan import FederationPlan, NetworkSize
from common.settings_file import parse_settings

Values = dict[str, Any]
TASK = {"name": "t", "classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 1}


def _set(values: Values, path: str, value: object) -> None:
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner: Any = values
    for part in parents:
        inner = inner.setdefault(part, {}) if isinstance(part, str) else inner[part]
    inner[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("name", "a b", r"name = 'a b': .*pattern"),
        ("name", "../up", r"name = '\.\./up': .*pattern"),
        ("seed", -1, r"seed = -1: .*greater than or equal to 0"),
        ("seed", 2**63, r"seed = 9223372036854775808: "),
        ("colour", 1, r"colour = 1: unknown key; allowed here: annotation, channels, .*training"),
        ("training.batchsize", 4, r"training\.batchsize = 4: unknown key; .*batch_size"),
        ("training.augmentation", {"gian": 1}, r"augmentation\.gian = 1: unknown key; .*gain"),
        ("tasks.1.window", 4, r"tasks\.1\.window = 4: unknown key; .*window_hu"),
        ("training.batch_size", 0, r"training\.batch_size = 0: .*or equal to 1"),
        ("training.held_back_share", 0.6, r"held_back_share = 0\.6: .*or equal to 0\.5"),
        ("training.learning_rate", 0, r"learning_rate = 0: .*greater than 0"),
        ("replay.share", 1.5, r"replay\.share = 1\.5: .*or equal to 1"),
        ("propagation.search_radius_voxels", 11, r"search_radius_voxels = 11: .*equal to 10"),
        ("propagation.candidates", [], r"candidates must differ and be one at least, got \(\)"),
        (
            "propagation.candidates",
            ["patches", "patches"],
            r"candidates must differ and be one at least, got \('patches', 'patches'\)",
        ),
        ("propagation.candidates", ["magic"], r"candidates\.0 = 'magic': .*'registration'"),
        ("propagation.segmenter_from", 1.5, r"segmenter_from = 1\.5: .*or equal to 1"),
        ("annotation.scans", 0, r"annotation\.scans = 0: .*or equal to 1"),
        ("correspondence.chain_slices", 1, r"chain_slices = 1: .*or equal to 2"),
        ("strategy.name", "FedSGD", r"strategy\.name = 'FedSGD': .*'FedAvg'.*'Krum'"),
        ("annotation.slice_choice", "best", r"slice_choice = 'best': .*'spread'"),
        ("tasks.0.plane", "oblique", r"tasks\.0\.plane = 'oblique': .*'sagittal'"),
        ("tasks.0.rounds", 0, r"tasks\.0\.rounds = 0: .*or equal to 1"),
        ("tasks.0.classes", [], r"tasks\.0\.classes = \[\]: .*at least 1 item"),
        ("tasks", [], r"tasks = \[\]: .*at least 1 item"),
        ("labels", [], r"labels = \[\]: .*at least 1 item"),
        ("labels.0.index", 0, r"labels\.0\.index = 0: .*or equal to 1"),
        ("labels.0.name", "a\tb", r"labels\.0\.name = .*pattern"),
        ("labels.0.colour", "red", r"labels\.0\.colour = 'red': .*pattern"),
        ("limits.hospitals", 0, r"limits\.hospitals = 0: .*or equal to 1"),
        ("limits.quorum", 4, r"quorum 4 is more than the 3 hospitals expected"),
        ("limits.deadline_s", float("inf"), r"limits\.deadline_s = inf: .*finite"),
        ("segmenter.channels", [4], r"segmenter\.channels = \[4\]: .*at least 2 items"),
        ("segmenter.channels", [4] * 9, r"segmenter\.channels = .*at most 8 items"),
        ("segmenter.strides", [2, 2], r"segmenter: 2 levels need 1 strides, got 2"),
        ("segmenter.strides", [5], r"segmenter\.strides\.0\.\S+ = 5: .*or equal to 4"),
    ],
)
def test_refuses_what_cannot_be(
    plan_values: Values, path: str, value: object, message: str
) -> None:
    _set(plan_values, path, value)
    with pytest.raises(SettingsError, match=message):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize(
    "key", ["name", "labels", "tasks", "segmenter", "student", "training", "limits"]
)
def test_refuses_a_missing_key(plan_values: Values, key: str) -> None:
    del plan_values[key]
    with pytest.raises(SettingsError, match=f"  {key}: missing"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "CT"}, r"a CT task needs window_hu = \[lowest, highest\]"),
        ({"modality": "CT", "window_hu": [50, 50]}, r"window_hu must ascend, got \[50\.0, 50\.0\]"),
        ({"classes": ["organ", "spleen"]}, r"'t' names classes \['spleen'\]; labels are \['organ'"),
        ({"classes": ["organ", "organ"]}, r"'t' names a class twice: \['organ', 'organ'\]"),
    ],
)
def test_refuses_a_task_that_contradicts_itself(
    plan_values: Values, changes: Values, message: str
) -> None:
    plan_values["tasks"] = [{**TASK, **changes}]
    with pytest.raises(SettingsError, match=message):
        parse_settings(FederationPlan, plan_values, "plan.toml")


def test_refuses_pseudo_labels_where_a_stage_has_one_round(plan_values: Values) -> None:
    plan_values["few_labels"] = {"pseudo_labels": {"weight": 1.0}}
    plan_values["tasks"] = [{**TASK, "rounds": 2}, {**TASK, "name": "u", "rounds": 1}]
    with pytest.raises(SettingsError, match=r"task 'u' has no other: give it two rounds at least"):
        parse_settings(FederationPlan, plan_values, "plan.toml")
    plan_values["tasks"][1]["rounds"] = 2
    parse_settings(FederationPlan, plan_values, "plan.toml")


def test_refuses_two_tasks_of_one_name(plan_values: Values) -> None:
    plan_values["tasks"] = [TASK, TASK]
    with pytest.raises(SettingsError, match=r"task names must differ, got \['t', 't'\]"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize("indexes", [(1, 3), (2, 1), (1, 1), (2, 3)])
def test_refuses_label_indexes_that_skip_or_repeat(
    plan_values: Values, indexes: tuple[int, int]
) -> None:
    for label, index in zip(plan_values["labels"], indexes, strict=True):
        label["index"] = index
    with pytest.raises(
        SettingsError, match=rf"must be 1, 2, 3, \.\.\. in order, got \[{indexes[0]}"
    ):
        parse_settings(FederationPlan, plan_values, "plan.toml")


def test_refuses_label_names_that_differ_only_in_case(plan_values: Values) -> None:
    plan_values["labels"][1]["name"] = "ORGAN"
    with pytest.raises(SettingsError, match=r"label names must differ, got \['organ', 'ORGAN'\]"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize(
    ("role", "patch", "strides", "message"),
    [
        (
            "segmenter",
            [8, 9, 8],
            [2],
            r"\[8, 9, 8\] must be a multiple of the segmenter's .*2, 2, 2",
        ),
        ("student", [8, 8, 6], [4], r"\[8, 8, 6\] must be a multiple of the student's .*4, 4, 4"),
        ("segmenter", [8, 8, 1], [[2, 2, 2]], r"multiple of the segmenter's"),
        ("segmenter", [2, 2, 2], [2], r"leaves the segmenter one voxel at its deepest"),
        ("student", [4, 4, 1], [[4, 4, 1]], r"leaves the student one voxel at its deepest"),
    ],
)
def test_refuses_a_patch_that_the_strides_do_not_divide(
    plan_values: Values, role: str, patch: list[int], strides: list[Any], message: str
) -> None:
    other = "student" if role == "segmenter" else "segmenter"
    plan_values["training"]["patch_size"] = patch
    plan_values[role]["strides"] = strides
    plan_values[other]["strides"] = [1]
    with pytest.raises(SettingsError, match=message):
        parse_settings(FederationPlan, plan_values, "plan.toml")


def test_one_axis_with_more_than_a_voxel_at_the_deepest_is_enough(plan_values: Values) -> None:
    plan_values["training"]["patch_size"] = [2, 4, 2]
    plan = FederationPlan.model_validate(plan_values)
    assert plan.training.patch_size == (2, 4, 2)


@pytest.mark.parametrize(("malicious", "fewest"), [(0, 3), (1, 5), (2, 7)])
def test_krum_needs_two_more_than_twice_the_malicious_and_one(
    plan_values: Values, malicious: int, fewest: int
) -> None:
    plan_values["strategy"] = {"name": "Krum", "num_malicious": malicious}
    plan_values["limits"] = {"hospitals": 9, "quorum": fewest}
    FederationPlan.model_validate(plan_values)
    plan_values["limits"]["quorum"] = fewest - 1
    with pytest.raises(
        SettingsError, match=rf"needs at least {fewest} replies; .* is {fewest - 1}"
    ):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize(
    ("strategy", "fewest"),
    [
        ({"name": "MultiKrum", "num_malicious": 1, "num_selected": 2}, 5),
        ({"name": "MultiKrum", "num_malicious": 1, "num_selected": 6}, 7),
        ({"name": "Bulyan", "num_malicious": 1}, 7),
        ({"name": "Bulyan", "num_malicious": 0}, 3),
    ],
)
def test_multikrum_and_bulyan_are_refused_where_they_could_not_withstand(
    plan_values: Values, strategy: dict[str, Any], fewest: int
) -> None:
    plan_values["strategy"] = strategy
    plan_values["limits"] = {"hospitals": 9, "quorum": fewest}
    FederationPlan.model_validate(plan_values)
    plan_values["limits"]["quorum"] = fewest - 1
    with pytest.raises(SettingsError, match=rf"{strategy['name']} .*at least {fewest} replies"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


def test_refuses_a_trimming_that_cuts_nobody(plan_values: Values) -> None:
    plan_values["strategy"] = {"name": "FedTrimmedAvg", "trimmed_share": 0.25}
    plan_values["limits"] = {"hospitals": 9, "quorum": 4}
    FederationPlan.model_validate(plan_values)  # a quarter of 4 is one hospital at either end
    plan_values["limits"]["quorum"] = 3
    with pytest.raises(SettingsError, match=r"trimmed_share 0\.25 of a quorum of 3 cuts nobody"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize("name", ["FedMedian", "FedTrimmedAvg"])
def test_the_middle_of_prototypes_is_refused(plan_values: Values, name: str) -> None:
    plan_values["few_labels"] = {"prototypes": {"weight": 0.1}}
    plan_values["limits"] = {"hospitals": 9, "quorum": 5}
    FederationPlan.model_validate(plan_values)
    plan_values["strategy"] = {"name": name}
    with pytest.raises(SettingsError, match=f"{name} takes the middle .* never get a prototype"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


@pytest.mark.parametrize("teacher_from", [0.0, 0.5])
def test_a_guard_without_held_back_slices_is_refused(
    plan_values: Values, teacher_from: float
) -> None:
    plan_values["few_labels"] = {"pseudo_labels": {"teacher_from": teacher_from}}
    FederationPlan.model_validate(plan_values)
    plan_values["training"]["held_back_share"] = 0
    with pytest.raises(SettingsError, match=r"goes by held-back slices, and .* there are none"):
        parse_settings(FederationPlan, plan_values, "plan.toml")


def test_the_plan_is_frozen_to_its_leaves(plan: FederationPlan) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        plan.seed = 1  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        plan.training.augmentation.scale = 0.5  # type: ignore[misc]


def test_rounds_belong_to_stages(plan: FederationPlan) -> None:
    # Stages of 2, 1 and 3 rounds: rounds 1 2 | 3 | 4 5 6.
    assert plan.num_rounds == 6
    assert [plan.stage_of_round(number) for number in range(1, 7)] == [0, 0, 1, 2, 2, 2]
    assert [plan.last_round_of_stage(stage) for stage in range(3)] == [2, 3, 6]
    assert plan.stage_of_round(7) == 2, "a round beyond the last belongs to the last stage"


def test_the_share_of_a_stage_that_is_done(plan: FederationPlan) -> None:
    shares = [plan.share_of_stage_done(number) for number in range(1, 7)]
    assert shares == [0.0, 1.0, 0.0, 0.0, 0.5, 1.0]


def _self_learning(values: Values, rounds: int) -> FederationPlan:
    values["correspondence"] = {"rounds": rounds}
    values["propagation"] = {"candidates": ["patches", "correspondence"]}
    return FederationPlan.model_validate(values)


def test_self_learning_comes_before_the_first_stage(plan_values: Values) -> None:
    # 2 rounds of self-learning, then stages of 2, 1 and 3: rounds 1 2 | 3 4 | 5 | 6 7 8.
    plan = _self_learning(plan_values, 2)
    numbers = range(1, 9)
    assert plan.num_rounds == 8
    assert [number for number in range(9) if plan.is_self_learning(number)] == [1, 2]
    assert [plan.stage_of_round(number) for number in numbers] == [0, 0, 0, 0, 1, 2, 2, 2]
    assert [plan.last_round_of_stage(stage) for stage in range(3)] == [4, 5, 8]
    assert [number for number in range(10) if plan.ends_stage(number)] == [2, 4, 5, 8]
    shares = [plan.share_of_stage_done(number) for number in numbers]
    assert shares == [0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 1.0]


def test_without_self_learning_no_round_is_one(plan: FederationPlan) -> None:
    assert not any(plan.is_self_learning(number) for number in range(-1, 8))
    assert [number for number in range(-1, 8) if plan.ends_stage(number)] == [2, 3, 6]


def test_self_learning_takes_the_plain_mean_whatever_the_strategy(plan_values: Values) -> None:
    plan_values["strategy"] = {"name": "FedAdam"}
    plan = _self_learning(plan_values, 1)
    assert [plan.strategy_of_round(number).name for number in (1, 2, 7)] == [
        "FedAvg",
        "FedAdam",
        "FedAdam",
    ]


def test_refuses_self_learning_that_nothing_uses(plan_values: Values) -> None:
    plan_values["correspondence"] = {"rounds": 2}
    message = r'rounds = 2 would train a network that nothing uses: .*"correspondence" among'
    with pytest.raises(SettingsError, match=message):
        parse_settings(FederationPlan, plan_values, "plan.toml")


def test_class_indexes_ascend_whatever_the_task_says(plan: FederationPlan) -> None:
    assert [plan.class_indexes(task) for task in plan.tasks] == [(1,), (2,), (1, 2)]
    assert plan.num_classes == 3


def test_a_task_is_found_by_name_and_knows_its_axis(plan_values: Values) -> None:
    for task, plane in zip(plan_values["tasks"], ("sagittal", "coronal", "axial"), strict=True):
        task["plane"] = plane
    plan = FederationPlan.model_validate(plan_values)
    assert plan.task_named("second") is plan.tasks[1]
    assert [task.axis for task in plan.tasks] == [0, 1, 2]


def test_total_stride_is_the_product_per_axis() -> None:
    size = NetworkSize.model_validate(
        {"channels": [1, 2, 3, 4], "strides": [2, [1, 2, 3], [4, 1, 1]]}
    )
    assert size.total_stride == (2 * 1 * 4, 2 * 2 * 1, 2 * 3 * 1)


CHANGES = [
    ("name", "other"),
    ("seed", 1),
    ("labels.1.colour", "#000000"),
    ("labels.0.snomed", "10200004"),
    ("tasks.0.rounds", 3),
    ("tasks.2.classes", ["organ"]),
    ("tasks.1.plane", "coronal"),
    ("channels", 2),
    ("segmenter.strides", [[2, 2, 1]]),
    ("student.channels", [2, 5]),
    ("training.spacing_mm", [1.0, 1.0, 2.5]),
    ("training.augmentation", {"noise": 0.2}),
    ("annotation.slice_choice", "centre"),
    ("annotation.scans", 5),
    ("propagation.candidates", ["patches", "registration"]),
    ("propagation.segmenter_from", 0.5),
    ("propagation.temperature", 0.6),
    ("correspondence.steps", 601),
    ("replay.budget_scans", 25),
    ("strategy.server_learning_rate", 0.02),
    ("limits.deadline_s", 60),
]


@pytest.mark.parametrize(("path", "value"), CHANGES)
def test_the_federation_changes_with_anything_in_the_plan(
    plan_values: Values, plan: FederationPlan, path: str, value: object
) -> None:
    _set(plan_values, path, value)
    assert FederationPlan.model_validate(plan_values).federation != plan.federation


def test_the_federation_does_not_depend_on_how_the_plan_is_written(
    plan_values: Values, plan: FederationPlan
) -> None:
    spelled_out = {**dict(reversed(plan_values.items())), "seed": 0, "channels": 1}
    assert FederationPlan.model_validate(spelled_out).federation == plan.federation
    assert FederationPlan.model_validate_json(plan.model_dump_json()).federation == plan.federation
    assert plan.federation.startswith("small-")


def test_a_student_must_have_something_to_learn_its_classes_from(plan_values: Values) -> None:
    nothing = {"soft_predictions": 0, "hint": 1}
    with pytest.raises(ValueError, match="the student has nothing to learn its classes from"):
        FederationPlan.model_validate({**plan_values, "distillation": nothing})
    from_pairs = FederationPlan.model_validate({**plan_values, "distillation": {"pairs": 1}})
    assert (from_pairs.distillation.uses_pairs, from_pairs.distillation.own_steps) == (True, 8)
    plain = FederationPlan.model_validate(plan_values)
    assert (plain.distillation.uses_pairs, plain.distillation.own_steps) == (False, 0)


# Going on from an earlier federation ------------------------------------------------------------


def test_a_plan_that_goes_on_has_rounds_left(plan_values: Values) -> None:
    earlier = {"federation": "small-0123abcd", "round": 5}
    plan = FederationPlan.model_validate({**plan_values, "extends": earlier})
    assert (plan.begins_after, plan.num_rounds) == (5, 6)
    assert FederationPlan.model_validate(plan_values).begins_after == 0
    assert plan.federation != FederationPlan.model_validate(plan_values).federation
    with pytest.raises(ValueError, match=r"extends.round is 6 and the plan has 6 rounds in all"):
        FederationPlan.model_validate({**plan_values, "extends": {**earlier, "round": 6}})


@pytest.mark.parametrize("name", ["small", "small-0123abc", "small-0123ABCD", "../small-0123abcd"])
def test_an_earlier_federation_is_named_with_its_hash(plan_values: Values, name: str) -> None:
    earlier = {"federation": name, "round": 5}
    with pytest.raises(ValueError, match="federation"):
        FederationPlan.model_validate({**plan_values, "extends": earlier})
