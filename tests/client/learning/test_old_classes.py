"""Who tells what an old class is where nobody looked for it: on voxels followed by hand."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Conv3d

from client.learning.batches import Batch
from client.learning.examples import Example, cut_patch
from client.learning.losses import segmentation_loss
from client.learning.old_classes import (
    TEMPERATURE,
    OldModel,
    count_as_background,
    distillation_loss,
    look_with,
    needs_old_model,
    pool_unlearnt,
    split_background,
)
from common.plan import FederationPlan

MakeExample = Callable[..., Example]
MakePlan = Callable[..., FederationPlan]


def voxels(*rows: list[float]) -> Tensor:
    """(1, N, 1, 1, voxels) from the N class values of each voxel."""
    return torch.tensor(rows).T.reshape(1, len(rows[0]), 1, 1, len(rows))


def logs(*rows: list[float]) -> Tensor:
    """Logits whose softmax gives these probabilities."""
    return voxels(*[[math.log(value) for value in row] for row in rows])


def batch_of(target: Tensor, known: Tensor, old_logits: Tensor, weight: float = 1.0) -> Batch:
    shape = (1, 1, 1, target.shape[-1])
    return Batch(
        image=torch.zeros(1, *shape),
        target=target,
        weight=torch.full(shape, weight),
        painted=torch.ones(shape, dtype=torch.bool),
        known=known,
        replayed=torch.tensor([False]),
        old_logits=old_logits,
    )


def test_the_background_is_split_as_the_old_model_says() -> None:
    # Class 1 is old and was not looked for, class 2 is new and was. To the old model, which never
    # learnt it, class 2 is background: 0.5 + 0.2 against 0.3.
    target = voxels([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.5, 0.0, 0.5])
    known = voxels([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], [1.0, 0.0, 1.0]).bool()
    old = logs([0.5, 0.3, 0.2], [0.5, 0.3, 0.2], [0.1, 0.8, 0.1])
    found = split_background(batch_of(target, known, old), (1,))
    wanted = voxels([0.7, 0.3, 0.0], [0.0, 0.0, 1.0], [0.1, 0.4, 0.5])
    torch.testing.assert_close(found.target, wanted)
    assert found.known.all()
    assert found.painted.all()
    assert (found.weight == 1).all()


def test_what_was_looked_for_stays_as_it_was_painted() -> None:
    # Old classes 1 and 2; 2 was looked for and is absent: the old model's 0.4 of it counts for
    # nothing, 0.3 of class 1 stand against 0.3 of background.
    target = voxels([1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    known = voxels([1.0, 0.0, 1.0], [1.0, 1.0, 1.0]).bool()
    old = logs([0.3, 0.3, 0.4], [0.3, 0.3, 0.4])
    found = split_background(batch_of(target, known, old), (1, 2))
    torch.testing.assert_close(found.target, voxels([0.5, 0.5, 0.0], [0.0, 0.0, 1.0]))


def test_classes_of_later_tasks_stay_open_on_old_scans() -> None:
    target, known = voxels([1.0, 0.0, 0.0]), voxels([1.0, 1.0, 0.0]).bool()
    before = batch_of(target, known, logs([0.2, 0.2, 0.6]))
    found = split_background(before, (1,))
    torch.testing.assert_close(found.target, target)
    assert torch.equal(found.known, known)


def test_an_old_model_that_is_sure_takes_all_of_the_background() -> None:
    target, known = voxels([1.0, 0.0, 0.0]), voxels([1.0, 0.0, 1.0]).bool()
    sure = voxels([-200.0, 200.0, -200.0])
    found = split_background(batch_of(target, known, sure), (1,))
    torch.testing.assert_close(found.target, voxels([0.0, 1.0, 0.0]))
    # Sure of a class that is known to be absent: what is left is background.
    absent = split_background(batch_of(target, known, voxels([-200.0, -200.0, 200.0])), (1, 2))
    torch.testing.assert_close(absent.target, voxels([1.0, 0.0, 0.0]))


def test_an_open_share_of_the_labels_is_decided_by_the_old_model() -> None:
    target, known = voxels([0.6, 0.4, 0.0]), voxels([1.0, 0.0, 1.0]).bool()
    found = split_background(batch_of(target, known, logs([0.75, 0.25, 1e-9])), (1,))
    torch.testing.assert_close(found.target, voxels([0.75, 0.25, 0.0]))


def test_the_target_goes_on_summing_to_one() -> None:
    rng = torch.Generator().manual_seed(0)
    target = torch.softmax(torch.randn(1, 4, 1, 1, 50, generator=rng), 1)
    known = torch.rand(1, 4, 1, 1, 50, generator=rng) < 0.5
    known[:, 0] = True
    old = 5 * torch.randn(1, 4, 1, 1, 50, generator=rng)
    found = split_background(batch_of(target, known, old), (1, 3))
    torch.testing.assert_close(found.target.sum(1), torch.ones(1, 1, 1, 50))
    assert (found.target >= 0).all()


def test_voxels_that_weigh_nothing_go_on_weighing_nothing() -> None:
    target, known = voxels([1.0, 0.0, 0.0]), voxels([1.0, 0.0, 1.0]).bool()
    before = batch_of(target, known, logs([0.1, 0.8, 0.1]), weight=0.0)
    found = split_background(before, (1,))
    logits = torch.zeros_like(target).requires_grad_()
    value = segmentation_loss(logits, found.target, found.weight, found.known)
    (gradient,) = torch.autograd.grad(value, logits)
    assert float(gradient.abs().sum()) == 0


def test_classes_the_old_model_never_learnt_are_its_background() -> None:
    probability = torch.softmax(pool_unlearnt(logs([0.1, 0.2, 0.3, 0.4]), (2,)), dim=1)
    torch.testing.assert_close(probability, voxels([0.7, 0.3]))


def test_distillation_by_hand() -> None:
    now, was = logs([0.5, 0.25, 0.25]), logs([0.1, 0.8, 0.1])
    value = distillation_loss(now, was, (1,), torch.tensor([1.0]))

    def softened(background: float, old: float) -> np.ndarray:
        powers = np.array([background, old]) ** (1 / TEMPERATURE)
        return np.asarray(powers / powers.sum())

    p, q = softened(0.2, 0.8), softened(0.75, 0.25)
    assert float(value) == pytest.approx(TEMPERATURE**2 * float((p * np.log(p / q)).sum()))


def test_distillation_counts_each_patch_by_its_strength() -> None:
    rng = torch.Generator().manual_seed(0)
    now, was = (torch.randn(2, 3, 2, 2, 2, generator=rng) for _ in range(2))
    each = [
        float(distillation_loss(now[[place]], was[[place]], (1,), torch.ones(1)))
        for place in (0, 1)
    ]
    together = distillation_loss(now, was, (1,), torch.tensor([0.5, 3.0]))
    assert float(together) == pytest.approx((0.5 * each[0] + 3.0 * each[1]) / 2, rel=1e-5)
    assert float(distillation_loss(now, was, (1,), torch.zeros(2))) == 0
    assert float(distillation_loss(was, was, (1,), torch.ones(2))) == pytest.approx(0, abs=1e-6)


def test_learning_the_new_class_out_of_the_background_costs_nothing() -> None:
    """What the old model calls background may become the new class: only the sum is held."""
    was, now = logs([0.7, 0.2, 0.1]), logs([0.1, 0.2, 0.7])
    assert float(distillation_loss(now, was, (1,), torch.ones(1))) == pytest.approx(0, abs=1e-6)


def test_the_old_model_looks_at_every_batch_and_is_not_trained() -> None:
    network = Conv3d(1, 3, kernel_size=1)
    image = torch.randn(1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    blank = torch.zeros(1, 3, 2, 2, 2)
    batch = Batch(image, blank, blank[:, 0], blank[:, 0].bool(), blank.bool(), torch.tensor([True]))
    batches = list(look_with(OldModel(network, (1,)), [batch, batch], torch.device("cpu")))
    assert len(batches) == 2
    assert batches[0].old_logits is not None
    assert not batches[0].old_logits.requires_grad
    torch.testing.assert_close(batches[0].old_logits, network(image).detach())


def test_plain_fine_tuning_takes_an_old_class_as_looked_for_and_absent(
    make_example: MakeExample, make_change: Callable[..., object]
) -> None:
    hard = np.zeros((4, 4, 4), dtype=np.uint8)
    hard[1:3] = 2
    example = make_example(hard, classes=(2,), num_classes=4)
    labels = count_as_background(example.labels, (1, 2))
    assert (labels.classes, labels.spread) == ((1, 2), (1, 2))
    np.testing.assert_array_equal(labels.hard(), hard)
    changed = Example(example.scan, labels, 4)
    patches = [
        cut_patch(one, (1.5, 1.5, 1.5), (4, 4, 4), make_change(), None)  # type: ignore[arg-type]
        for one in (example, changed)
    ]
    torch.testing.assert_close(patches[0].target, patches[1].target)
    assert patches[0].known[:, 0, 0, 0].tolist() == [True, False, True, False]
    assert patches[1].known[:, 0, 0, 0].tolist() == [True, True, True, False]


def three_tasks(make_plan: MakePlan, *classes: list[str], **retention: object) -> FederationPlan:
    task = {"modality": "MR", "plane": "axial", "rounds": 1}
    tasks = [{"name": f"task-{place}", "classes": one, **task} for place, one in enumerate(classes)]
    return make_plan(tasks=tasks, retention=retention)


def test_taught_are_the_classes_of_all_tasks_up_to_a_stage(make_plan: MakePlan) -> None:
    plan = three_tasks(make_plan, ["lesion"], ["organ"], ["lesion"])
    assert [plan.taught_indexes(stage) for stage in range(-1, 2)] == [(), (2,), (1, 2)]


@pytest.mark.parametrize(
    ("retention", "wanted"),
    [
        ({"old_classes": "background"}, [False, False]),
        ({"old_classes": "merged"}, [False, False]),
        ({"old_classes": "distilled"}, [False, True]),
        ({"replay_distillation": 1.0}, [False, True]),
        ({"current_distillation": 1.0}, [False, True]),
        ({"elastic_weight": 1.0}, [False, True]),
    ],
)
def test_who_needs_the_old_model(
    make_plan: MakePlan, retention: dict[str, object], wanted: list[bool]
) -> None:
    plan = three_tasks(make_plan, ["organ"], ["lesion"], **{"old_classes": "merged", **retention})
    assert [needs_old_model(plan, stage) for stage in range(2)] == wanted


def test_where_all_classes_are_looked_for_nothing_is_left_to_split(make_plan: MakePlan) -> None:
    both = ["organ", "lesion"]
    plan = three_tasks(make_plan, both, both, ["organ"], old_classes="distilled")
    assert [needs_old_model(plan, stage) for stage in range(3)] == [False, False, True]
