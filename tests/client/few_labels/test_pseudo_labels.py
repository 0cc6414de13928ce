"""Pseudo-labels: who gives them, where they count, and what learns from them."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest
import torch
from monai.networks.nets import UNet
from small_scenario import small_scenario
from torch import Tensor

from client.few_labels.pseudo_labels import (
    Teacher,
    Teaching,
    add_unannotated,
    ramped_weight,
    second_stage,
    teaching_of,
)
from client.learning.batches import Batch
from client.learning.losses import segmentation_loss
from client.learning.train_models import LossTerm
from common.learning_settings import FewLabels, PseudoLabels
from common.networks.embedding import Embedding
from common.networks.unet import SEGMENTER, build_networks, keep_silent, num_last_features
from common.plan import FederationPlan
from common.scans import Geometry, Scan

CPU = torch.device("cpu")
ALL = frozenset({1, 2})
SETTINGS = PseudoLabels(weight=2.0, momentum=0.5, begins_at=0.5, ramp_share=0.4, mixed_share=0.0)


@pytest.fixture
def plan() -> FederationPlan:
    plan = small_scenario().plan
    return plan.model_copy(update={"few_labels": FewLabels(pseudo_labels=SETTINGS)})


@pytest.fixture
def segmenter(plan: FederationPlan) -> UNet:
    return build_networks(plan)[SEGMENTER]


def half_labelled(plan: FederationPlan, seed: int = 0) -> Batch:
    """Two patches, the first half of each labelled as background."""
    size = (2, *plan.training.patch_size)
    image = torch.randn(2, 1, *size[1:], generator=torch.Generator().manual_seed(seed))
    weight = torch.zeros(size)
    weight[:, : size[1] // 2] = 1
    target = torch.zeros(2, plan.num_classes, *size[1:])
    target[:, 0] = weight
    known = torch.ones(target.shape, dtype=torch.bool)
    return Batch(image, target, weight, weight > 0, known, torch.zeros(2, dtype=torch.bool))


def teacher_of(
    segmenter: UNet,
    settings: PseudoLabels = SETTINGS,
    embedding: Embedding | None = None,
    classes: frozenset[int] = ALL,
) -> Teacher:
    return Teacher(segmenter, settings, embedding, classes)


def staged(
    drawn: Iterable[Batch],
    segmenter: UNet,
    settings: PseudoLabels,
    *,
    done: float,
    classes: frozenset[int] = ALL,
) -> tuple[Iterator[Batch], list[LossTerm]]:
    """The second stage of batches, without prototypes."""
    rng, teaching = np.random.default_rng(0), Teaching(ramped_weight(settings, done), classes)
    return second_stage(
        iter(drawn), segmenter, None, settings, teaching=teaching, device=CPU, rng=rng
    )


def weights(network: torch.nn.Module) -> Tensor:
    return torch.cat([one.detach().flatten() for one in network.parameters()])


def change(network: torch.nn.Module, by: float) -> None:
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(by)


def test_the_teacher_is_a_moving_average(segmenter: UNet) -> None:
    teacher = teacher_of(segmenter)
    begun = weights(segmenter)
    change(segmenter, 1.0)
    assert torch.equal(weights(teacher.network), begun)
    teacher.follow(segmenter)
    torch.testing.assert_close(weights(teacher.network), begun + 0.5)
    teacher.follow(segmenter)
    torch.testing.assert_close(weights(teacher.network), begun + 0.75)


def test_labels_stay_and_the_rest_is_what_the_teacher_sees(
    plan: FederationPlan, segmenter: UNet
) -> None:
    batch = half_labelled(plan)
    taught = teacher_of(segmenter).teach(batch)
    seen = torch.softmax(segmenter(batch.image), dim=1)
    assert not taught.movedim(1, -1)[batch.weight > 0].any()
    is_free = batch.weight == 0
    assert torch.equal(taught.movedim(1, -1)[is_free], seen.movedim(1, -1)[is_free])


def test_doubtful_voxels_do_not_count(plan: FederationPlan, segmenter: UNet) -> None:
    batch = half_labelled(plan)
    free = teacher_of(segmenter).teach(batch).amax(1)[batch.weight == 0]
    least = float(free.median())
    strict = SETTINGS.model_copy(update={"confidence": least})
    counts = teacher_of(segmenter, strict).teach(batch).sum(1) > 0
    assert torch.equal(counts[batch.weight == 0], free >= least)
    assert not counts[batch.weight > 0].any()


def test_the_nearest_prototype_has_to_agree(plan: FederationPlan, segmenter: UNet) -> None:
    batch = half_labelled(plan)
    embedding = Embedding(num_last_features(plan.segmenter), 2, background=1, num_classes=3)
    # Nobody has a place yet; then class 1 alone, which is the nearest to every voxel.
    for classes in (ALL, frozenset({1})):
        nobody = teacher_of(segmenter, embedding=embedding, classes=classes)
        assert not nobody.teach(batch).any()
    embedding.prototypes[1] = torch.tensor([1.0, 0.0])
    alone = teacher_of(segmenter).teach(batch)
    agreed = teacher_of(segmenter, embedding=embedding).teach(batch)
    expected = alone * (alone.argmax(1, keepdim=True) == 1)
    assert torch.equal(agreed, expected)
    assert 0 < int((expected.sum(1) > 0).sum()) < int((alone.sum(1) > 0).sum())


def test_nothing_is_taught_of_classes_that_no_task_has_taught(
    plan: FederationPlan, segmenter: UNet
) -> None:
    batch, last = half_labelled(plan), plan.num_classes - 1
    assert teacher_of(segmenter).teach(batch)[:, last].any()
    keep_silent(segmenter, [last])
    taught = teacher_of(segmenter).teach(batch)
    assert not taught[:, last].any()
    torch.testing.assert_close(taught.sum(1), (batch.weight == 0).float())


def test_the_term_is_the_segmentation_loss_on_what_was_taught(
    plan: FederationPlan, segmenter: UNet
) -> None:
    batches, terms = staged([half_labelled(plan)], segmenter, SETTINGS, done=0.7)
    batch, (term,) = next(batches), terms
    logits = segmenter(batch.image)
    assert batch.taught is not None
    counts, known = (batch.weight == 0).float(), torch.ones_like(batch.known)
    # Half way up the ramp to a weight of 2.
    expected = 1.0 * segmentation_loss(logits, batch.taught, counts, known)
    torch.testing.assert_close(term(segmenter, batch, logits), expected)


def test_the_teacher_follows_from_batch_to_batch(plan: FederationPlan, segmenter: UNet) -> None:
    same = [half_labelled(plan), half_labelled(plan)]
    batches, _ = staged(same, segmenter, SETTINGS, done=1.0)
    first = next(batches).taught
    change(segmenter, 0.1)
    second = next(batches).taught
    assert first is not None
    assert second is not None
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("weight", "done"), [(0.0, 1.0), (2.0, 0.0), (2.0, 0.5)])
def test_without_a_weight_nothing_is_asked(
    plan: FederationPlan, segmenter: UNet, weight: float, done: float
) -> None:
    drawn: Iterator[Batch] = iter([])
    settings = SETTINGS.model_copy(update={"weight": weight})
    batches, terms = staged(drawn, segmenter, settings, done=done)
    assert batches is drawn
    assert terms == []


@pytest.mark.parametrize(("done", "weight"), [(0, 0), (0.5, 0), (0.6, 0.5), (0.9, 2), (1, 2)])
def test_the_weight_rises_and_stays(done: float, weight: float) -> None:
    assert ramped_weight(SETTINGS, done) == pytest.approx(weight)


def test_at_full_weight_batches_are_mixed_after_the_teacher_has_seen_them_whole(
    plan: FederationPlan, segmenter: UNet
) -> None:
    settings, batch = SETTINGS.model_copy(update={"mixed_share": 1.0}), half_labelled(plan)

    def mixed_at(done: float) -> list[Batch]:
        return list(staged([batch] * 20, segmenter, settings, done=done)[0])

    whole = teacher_of(segmenter, settings).teach(batch)
    full, half = mixed_at(1.0), mixed_at(0.7)
    for one in full:
        assert one.taught is not None
        is_own = (one.image == batch.image).movedim(1, -1)[..., 0]
        # What was taught of a voxel went where its image did.
        for mine, image, taught, other in zip(is_own, one.image, one.taught, (1, 0), strict=True):
            moved = whole[other].movedim(0, -1)[~mine]
            torch.testing.assert_close(taught.movedim(0, -1)[~mine], moved)
            assert torch.equal(image[0][~mine], batch.image[other, 0][~mine])
    changed = [
        sum(not torch.equal(one.image, batch.image) for one in some) for some in (full, half)
    ]
    assert changed[0] == 20
    assert 5 <= changed[1] <= 15  # half way up the ramp


def test_unannotated_scans_bring_patches_of_which_nothing_is_known(plan: FederationPlan) -> None:
    shape = (20, 20, 20)
    identity = tuple(tuple(row) for row in np.eye(4).tolist())
    image = np.full((1, *shape), 3, dtype=np.float32)
    scan = Scan("new", image, Geometry(shape, identity), "MR")
    asked: list[str] = []

    def load(scan_id: str) -> Scan:
        asked.append(scan_id)
        return scan

    plain = half_labelled(plan)
    rng = np.random.default_rng(0)
    (batch,) = add_unannotated(iter([plain]), ["new"], load, plan, rng, teaching=Teaching(2.0, ALL))
    assert asked == ["new"] * SETTINGS.unannotated
    assert len(batch.image) == 2 + SETTINGS.unannotated
    assert torch.equal(batch.image[:2], plain.image)
    assert torch.equal(batch.weight[:2], plain.weight)
    assert batch.image[2:].mean() > 1  # the scan, not what surrounds it
    assert not batch.weight[2:].any()
    assert not batch.painted[2:].any()
    assert not batch.replayed.any()


def test_batches_stay_as_they_came_without_such_scans_or_a_teacher(plan: FederationPlan) -> None:
    drawn: Iterator[Batch] = iter([])
    rng, never = np.random.default_rng(0), {}.__getitem__
    for scans, weight in (([], 2.0), (["new"], 0.0)):
        teaching = Teaching(weight, ALL)
        assert add_unannotated(drawn, scans, never, plan, rng, teaching=teaching) is drawn


# Which classes it has earned ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("teacher_from", "dice", "weight", "classes"),
    [
        (None, {}, 2.0, {1, 2}),
        (0.5, {"head": 0.5, "body": 0.49}, 2.0, {1}),
        (0.5, {"body": 0.75}, 2.0, {2}),
        (0.5, {"head": 0.4}, 0.0, set()),
        (0.0, {}, 0.0, set()),
    ],
)
def test_a_class_is_earned_on_held_back_slices(
    plan: FederationPlan,
    teacher_from: float | None,
    dice: dict[str, float],
    weight: float,
    classes: set[int],
) -> None:
    pseudo = SETTINGS.model_copy(update={"teacher_from": teacher_from})
    asked = plan.model_copy(update={"few_labels": FewLabels(pseudo_labels=pseudo)})
    assert teaching_of(asked, 1.0, dice) == Teaching(weight, frozenset(classes))
    assert teaching_of(asked, 0.5, dice).weight == 0


def test_what_is_not_earned_is_background_to_the_teacher(
    plan: FederationPlan, segmenter: UNet
) -> None:
    batch = half_labelled(plan)
    whole = teacher_of(segmenter).teach(batch)
    taught = teacher_of(segmenter, classes=frozenset({1})).teach(batch)
    torch.testing.assert_close(taught[:, 0], whole[:, 0] + whole[:, 2])
    assert torch.equal(taught[:, 1], whole[:, 1])
    assert whole[:, 2].any()
    assert not taught[:, 2].any()
    # How sure it is counts the two together, too.
    least = float(whole.amax(1).max()) + 1e-3
    strict = SETTINGS.model_copy(update={"confidence": least})
    assert not teacher_of(segmenter, strict).teach(batch).any()
    assert teacher_of(segmenter, strict, classes=frozenset({1})).teach(batch).any()


def test_a_prototype_of_what_is_not_earned_speaks_for_the_background(
    plan: FederationPlan, segmenter: UNet
) -> None:
    batch = half_labelled(plan)
    embedding = Embedding(num_last_features(plan.segmenter), 2, background=1, num_classes=3)
    embedding.prototypes[2] = torch.tensor([1.0, 0.0])  # class 2 alone: it is nearest everywhere
    taught = teacher_of(segmenter, embedding=embedding, classes=frozenset({1})).teach(batch)
    free = teacher_of(segmenter, classes=frozenset({1})).teach(batch)
    assert torch.equal(taught, free * (free.argmax(1, keepdim=True) == 0))
    assert taught.any()


def test_nothing_is_learnt_of_what_is_not_earned(plan: FederationPlan, segmenter: UNet) -> None:
    batches, (term,) = staged(
        [half_labelled(plan)], segmenter, SETTINGS, done=1.0, classes=frozenset({1})
    )
    batch = next(batches)
    logits = segmenter(batch.image).detach()
    # Background and class 2 trade probability: as one they are as likely as before.
    low, high = logits[:, 0], logits[:, 2]
    traded = torch.stack([high, logits[:, 1], low], dim=1)
    torch.testing.assert_close(term(segmenter, batch, traded), term(segmenter, batch, logits))
    other = torch.stack([logits[:, 1], low, high], dim=1)
    assert term(segmenter, batch, other) != term(segmenter, batch, logits)
