"""The estimate counts what a training step really keeps, and grows with what makes a round grow."""

from collections.abc import Callable

import pytest
import torch

from client.learning.batches import Batch
from client.learning.losses import segmentation_loss
from client.local_round import Hospital
from client.round_memory import GB, _kept_by_training, estimate_memory_gb
from client.store.store import Store
from common.networks.unet import SEGMENTER, build_networks
from common.plan import FederationPlan
from common.updates import RoundRequest

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]


def estimate(store: Store, plan: FederationPlan, number: int = 1, action: str = "train") -> float:
    request = RoundRequest.model_validate({"action": action, "plan": plan, "round": number})
    return estimate_memory_gb(store, request, plan.tasks)


def test_what_is_kept_for_the_way_back_is_what_torch_keeps(make_plan: MakePlan) -> None:
    plan = make_plan()
    kept: list[int] = []

    def count(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel() * tensor.element_size())
        return tensor

    network = build_networks(plan)[SEGMENTER]
    size = (plan.training.batch_size, *plan.training.patch_size)
    classes = (size[0], plan.num_classes, *size[1:])
    batch = Batch(
        torch.zeros(size[0], 1, *size[1:]),
        torch.zeros(classes),
        torch.ones(size),
        torch.zeros(size, dtype=torch.bool),
        torch.ones(classes, dtype=torch.bool),
        torch.zeros(size[0], dtype=torch.bool),
    )
    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        segmentation_loss(network(batch.image), batch.target, batch.weight, batch.known)
    with torch.device("meta"):
        empty = network.to("meta")
    # The processor's kernels keep a few small tensors that the empty ones do not.
    assert _kept_by_training(plan, empty) == pytest.approx(sum(kept), rel=0.15)


def test_soft_boundaries_take_sixteen_times_the_labels(make_plan: MakePlan) -> None:
    plan = make_plan()
    soft = make_plan(training={"boundary_smoothing_voxels": 1.0})
    size = plan.training.patch_size
    labels = 4 * plan.training.batch_size * plan.num_classes * size[0] * size[1] * size[2]
    empty = build_networks(plan)[SEGMENTER].to("meta")
    assert _kept_by_training(soft, empty) == _kept_by_training(plan, empty) + 16 * labels


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"batch_size": 64}},
        {"training": {"patch_size": [64, 64, 64]}},
        {"segmenter": {"channels": [64, 128]}},
    ],
)
def test_a_larger_round_needs_more(
    make_hospital: MakeHospital, make_plan: MakePlan, change: dict[str, dict[str, object]]
) -> None:
    store, plan = make_hospital().store, make_plan()
    size = {"channels": [4, 8], "strides": [2], "residual_units": 1}
    if "segmenter" in change:
        change = {"segmenter": {**size, **change["segmenter"]}}
    assert estimate(store, make_plan(**change)) > estimate(store, plan) + 0.01


def test_a_large_scan_counts_where_its_labels_are_made(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store, plan = make_hospital().store, make_plan()
    before = estimate(store, plan)
    with store.connect() as connection:
        connection.execute(
            "UPDATE scans SET geometry = json_set(geometry, '$.shape', json('[512,512,300]')) "
            "WHERE rowid = 1"
        )
    # Seven copies of the probabilities of two classes, and the image.
    grown = estimate(store, plan) - before
    assert grown == pytest.approx(15 * 4 * 512 * 512 * 300 / GB, rel=0.02)
    assert estimate(store, plan, action="score") == pytest.approx(estimate(store, plan), rel=0.02)
    # The label engine's network describes every voxel besides.
    learned = make_plan(propagation={"candidates": ["patches", "correspondence"]})
    assert estimate(store, learned) > estimate(store, plan) + 24 * 4 * 512 * 512 * 300 / GB * 0.99


def test_self_learning_is_counted_by_its_own_network(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store = make_hospital().store
    propagation = {"candidates": ["patches", "correspondence"]}
    small = make_plan(propagation=propagation, correspondence={"rounds": 1, "batch_size": 1})
    large = make_plan(propagation=propagation, correspondence={"rounds": 1, "batch_size": 8})
    assert estimate(store, large) > estimate(store, small) + 0.2
    assert estimate(store, large, 2) == pytest.approx(estimate(store, small, 2))


def test_an_old_model_is_counted_from_the_second_stage_on(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    store = make_hospital().store
    plain = make_plan(retention={"old_classes": "merged"})
    asked = make_plan(retention={"old_classes": "merged", "replay_distillation": 1.0})
    assert estimate(store, asked) == estimate(store, plain)
    weights = sum(one.numel() for one in build_networks(plain)[SEGMENTER].parameters())
    more = estimate(store, asked, 3) - estimate(store, plain, 3)
    assert more == pytest.approx(4 * 4 * weights / GB)
