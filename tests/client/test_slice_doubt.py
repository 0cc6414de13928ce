"""Where the incoming segmenter is in doubt on scans that nobody has painted."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet

from client.annotation.annotator import Annotator, asked_slices, paint_asked_slices
from client.learning.predict import predict_probabilities
from client.local_round import Hospital
from client.slice_doubt import note_doubts
from client.store.doubts import SliceDoubt, find_doubts, save_doubt
from client.store.scans import list_scans, load_scan
from common.networks.unet import SEGMENTER, build_networks
from common.plan import Earlier, FederationPlan

MakeHospital = Callable[..., Hospital]
MakePlan = Callable[..., FederationPlan]
MakeOracle = Callable[[FederationPlan], Annotator]
CPU = torch.device("cpu")


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Two tasks of the same class: the second is known when it begins."""
    task = {"classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 2}
    return make_plan(
        tasks=[{"name": "first", **task}, {"name": "second", **task}],
        annotation={"slice_choice": "doubt"},
    )


@pytest.fixture
def segmenter(plan: FederationPlan) -> UNet:
    return build_networks(plan)[SEGMENTER]


def ids_of(hospital: Hospital, task: str) -> list[str]:
    return [scan.scan_id for scan in list_scans(hospital.store, task)]


def test_the_first_task_is_left_alone_and_the_second_looked_at_once(
    make_hospital: MakeHospital, plan: FederationPlan, segmenter: UNet
) -> None:
    hospital = make_hospital()
    assert note_doubts(hospital.store, plan, 1, segmenter, CPU) == 0
    assert note_doubts(hospital.store, plan, 2, segmenter, CPU) == 0
    assert note_doubts(hospital.store, plan, 3, segmenter, CPU) == 3
    assert note_doubts(hospital.store, plan, 4, segmenter, CPU) == 0
    assert set(find_doubts(hospital.store, ids_of(hospital, "second"))) == set(
        ids_of(hospital, "second")
    )
    assert find_doubts(hospital.store, ids_of(hospital, "first")) == {}


def test_a_profile_counts_the_voxels_in_doubt_on_each_slice(
    make_hospital: MakeHospital, plan: FederationPlan, segmenter: UNet
) -> None:
    hospital = make_hospital()
    note_doubts(hospital.store, plan, 3, segmenter, CPU)
    scan_id = ids_of(hospital, "second")[0]
    scan = load_scan(hospital.store, scan_id)
    predicted = predict_probabilities(segmenter, scan, plan.training, device=CPU).numpy()
    # The plan has another label that no task names: background or that is no doubt.
    predicted = np.stack([predicted[0] + predicted[2], predicted[1]])
    wanted = (1 - (predicted**2).sum(0)).sum((0, 1))
    found = find_doubts(hospital.store, [scan_id])[scan_id]
    np.testing.assert_allclose(found.profile, wanted, rtol=1e-3)
    assert (found.federation, found.round) == (plan.federation, 3)


def test_another_federation_or_stage_looks_again(
    make_hospital: MakeHospital, plan: FederationPlan, segmenter: UNet
) -> None:
    hospital = make_hospital()
    first, second, third = ids_of(hospital, "second")
    save_doubt(hospital.store, first, SliceDoubt("another", 3, (1.0,)))
    save_doubt(hospital.store, second, SliceDoubt(plan.federation, 1, (1.0,)))
    save_doubt(hospital.store, third, SliceDoubt(plan.federation, 4, (1.0,)))
    assert note_doubts(hospital.store, plan, 4, segmenter, CPU) == 2
    assert find_doubts(hospital.store, [third])[third].profile == (1.0,)


def test_a_painted_scan_is_in_no_doubt_and_new_classes_are_unknown(
    make_hospital: MakeHospital, plan: FederationPlan, make_plan: MakePlan, oracle: MakeOracle
) -> None:
    hospital = make_hospital()
    paint_asked_slices(hospital.store, plan, plan.tasks[1], oracle(plan))
    assert note_doubts(hospital.store, plan, 3, build_networks(plan)[SEGMENTER], CPU) == 0
    other = make_plan(annotation={"slice_choice": "doubt"})  # its second task has a new class
    assert note_doubts(hospital.store, other, 3, build_networks(other)[SEGMENTER], CPU) == 0


def test_the_slice_in_doubt_is_asked_for_but_not_of_held_back_scans(
    make_hospital: MakeHospital, plan: FederationPlan, make_plan: MakePlan
) -> None:
    hospital, task = make_hospital(), plan.tasks[1]
    for scan_id in ids_of(hospital, "second"):
        profile = tuple(float(index == 13) for index in range(16))
        save_doubt(hospital.store, scan_id, SliceDoubt(plan.federation, 3, profile))
    assert {ref.index for ref in asked_slices(hospital.store, plan, task)} == {13}
    training = plan.training.model_copy(update={"held_back_share": 0.5})
    half = plan.model_copy(update={"training": training})
    for scan_id in ids_of(hospital, "second"):
        save_doubt(hospital.store, scan_id, SliceDoubt(half.federation, 3, profile))
    asked = {ref.scan_id: ref.index for ref in asked_slices(hospital.store, half, task)}
    cohort = half.model_copy(update={"annotation": make_plan().annotation})
    held_back = [scan_id for scan_id in asked if half.is_held_back(scan_id)]
    assert 0 < len(held_back) < len(asked)
    assert all(asked[one] == 13 for one in asked if one not in held_back)
    # With nothing painted yet, `cohort` is `spread`, the choice of the plan without changes.
    spread = {ref.scan_id: ref.index for ref in asked_slices(hospital.store, cohort, task)}
    assert all(asked[one] == spread[one] for one in held_back)


def test_doubts_of_another_federation_or_axis_say_nothing(
    make_hospital: MakeHospital, plan: FederationPlan
) -> None:
    hospital, task = make_hospital(), plan.tasks[1]
    unmoved = asked_slices(hospital.store, plan, task)
    for federation, depth in (("another", 16), (plan.federation, 24)):
        profile = tuple(float(index == depth - 1) for index in range(depth))
        for scan_id in ids_of(hospital, "second"):
            save_doubt(hospital.store, scan_id, SliceDoubt(federation, 3, profile))
        assert asked_slices(hospital.store, plan, task) == unmoved


def test_doubts_of_the_federation_that_a_plan_goes_on_from_count(
    make_hospital: MakeHospital, plan: FederationPlan
) -> None:
    hospital, task = make_hospital(), plan.tasks[1]
    profile = tuple(float(index == 13) for index in range(16))
    for scan_id in ids_of(hospital, "second"):
        save_doubt(hospital.store, scan_id, SliceDoubt(plan.federation, 3, profile))
    earlier = Earlier(federation=plan.federation, round=2)
    grown = plan.model_copy(update={"name": "grown", "extends": earlier})
    assert {ref.index for ref in asked_slices(hospital.store, grown, task)} == {13}


def test_whoever_paints_at_once_paints_when_the_round_comes(
    make_hospital: MakeHospital, plan: FederationPlan, oracle: MakeOracle
) -> None:
    from dataclasses import replace

    from client.local_round import train_round
    from client.store.annotations import latest_annotations
    from common.networks.unet import networks_to_arrays
    from common.updates import RoundRequest

    hospital = replace(make_hospital(), annotator=oracle(plan))
    arrays = networks_to_arrays(build_networks(plan))

    def painted(task: str) -> int:
        return sum(len(latest_annotations(hospital.store, i)) for i in ids_of(hospital, task))

    train_round(hospital, RoundRequest(action="train", plan=plan, round=1), arrays)
    assert (painted("first"), painted("second")) == (3, 0)
    result = train_round(hospital, RoundRequest(action="train", plan=plan, round=3), arrays)
    assert (painted("first"), painted("second")) == (3, 3)
    assert result.update.note.task == "second"
