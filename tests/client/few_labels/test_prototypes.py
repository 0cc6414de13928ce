"""The contrast with prototypes: what it asks for, and which voxels it asks."""

import math

import numpy as np
import pytest
import torch

from client.few_labels.prototypes import (
    UNKNOWN,
    at_boundary,
    cluster,
    contrast,
    contrastive_loss,
    draw_voxels,
    move_prototypes,
    nearest_class,
    shown_classes,
    vectors_at,
)
from client.learning.batches import Batch
from common.learning_settings import Prototypes
from common.networks.embedding import Embedding

SHAPE = (1, 1, 1, 8)
SETTINGS = Prototypes(embedding_length=2, background=2, momentum=0.5, voxels_per_class=4)
ALONG_X, ALONG_Y = (1.0, 0.0), (0.0, 1.0)
ROOT_HALF = math.sqrt(0.5)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def plain_embedding(prototypes: list[tuple[float, float]], num_classes: int = 3) -> Embedding:
    """Passes two features on as they are; as many background prototypes as the rest."""
    background = len(prototypes) - (num_classes - 1)
    embedding = Embedding(2, 2, background=background, num_classes=num_classes)
    with torch.no_grad():
        embedding.head.weight.copy_(torch.eye(2)[:, :, None, None, None])
        embedding.head.bias.zero_()
        embedding.prototypes.copy_(torch.tensor(prototypes))
    return embedding


def line_batch(classes: list[int], weight: list[float], known: tuple[bool, ...]) -> Batch:
    """A row of eight voxels."""
    hard = torch.tensor(classes).reshape(SHAPE)
    return Batch(
        image=torch.zeros(1, *SHAPE),
        target=torch.stack([hard == index for index in range(3)], dim=1).float(),
        weight=torch.tensor(weight).reshape(SHAPE),
        painted=torch.tensor(weight).reshape(SHAPE) > 0,
        known=torch.tensor(known)[None, :, None, None, None].expand(1, 3, 1, 1, 8),
        replayed=torch.tensor([False]),
    )


def test_the_loss_is_the_share_that_the_own_class_has() -> None:
    prototypes = torch.tensor([ALONG_X, (-1.0, 0.0), ALONG_Y])
    vectors, classes = torch.tensor([ALONG_X]), torch.tensor([0])
    # Likeness at temperature 0.5: 2, -2 to the background's two, 0 to the class.
    own, other = math.exp(2) + math.exp(-2), 1.0
    loss = contrastive_loss(vectors, classes, prototypes, torch.tensor([0, 0, 1]), 0.5)
    assert float(loss) == pytest.approx(-math.log(own / (own + other)), abs=1e-6)


def test_a_class_without_a_place_is_in_nobodys_way() -> None:
    prototypes = torch.tensor([ALONG_X, (0.0, 0.0)])
    vectors, classes = torch.tensor([ALONG_Y]), torch.tensor([0])
    assert float(contrastive_loss(vectors, classes, prototypes, torch.tensor([0, 1]), 0.1)) == 0


def test_without_voxels_the_loss_is_zero() -> None:
    nothing, prototypes = torch.empty(0, 2), torch.tensor([ALONG_X])
    none = torch.empty(0, dtype=torch.int64)
    assert float(contrastive_loss(nothing, none, prototypes, torch.tensor([0]), 0.1)) == 0


def test_a_prototype_moves_by_its_momentum_and_an_absent_class_keeps_its_own() -> None:
    embedding = plain_embedding([ALONG_X, ALONG_X, ALONG_Y])
    move_prototypes(embedding, torch.tensor([ALONG_Y]), torch.tensor([1]), 0.5)
    expected = torch.tensor([ALONG_X, (ROOT_HALF, ROOT_HALF), ALONG_Y])
    torch.testing.assert_close(embedding.prototypes, expected)


def test_of_the_background_only_the_nearest_prototype_moves() -> None:
    embedding = plain_embedding([ALONG_X, ALONG_Y, ALONG_X, ALONG_X])
    tilted = (0.6, 0.8)
    move_prototypes(embedding, torch.tensor([tilted]), torch.tensor([0]), 0.0)
    expected = torch.tensor([ALONG_X, tilted, ALONG_X, ALONG_X])
    torch.testing.assert_close(embedding.prototypes, expected)


def test_what_hospitals_average_counts_by_its_direction() -> None:
    embedding = plain_embedding([(0.2, 0.0), (0.0, 0.0), ALONG_Y])
    move_prototypes(embedding, torch.tensor([ALONG_Y]), torch.tensor([0]), 0.5)
    torch.testing.assert_close(embedding.prototypes[0], torch.tensor([ROOT_HALF, ROOT_HALF]))


def test_a_new_class_begins_at_its_mean() -> None:
    embedding = plain_embedding([ALONG_X, (0.0, 0.0), ALONG_Y])
    move_prototypes(embedding, torch.tensor([ALONG_X, ALONG_Y]), torch.tensor([1, 1]), 0.99)
    torch.testing.assert_close(embedding.prototypes[1], torch.tensor([ROOT_HALF, ROOT_HALF]))


def test_the_background_begins_at_its_clusters() -> None:
    angles = torch.tensor([0.1, 0.15, 0.2, 2.0, 2.05, 2.1])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = cluster(vectors, 2)
    middle = torch.tensor([0.15, 2.05])
    expected = torch.stack([middle.cos(), middle.sin()], dim=1)
    order = found[:, 0].argsort(descending=True)
    torch.testing.assert_close(found[order], expected, atol=1e-3, rtol=0)
    assert torch.equal(found, cluster(vectors, 2))


def test_only_trusted_voxels_show_a_class() -> None:
    batch = line_batch([0, 1, 2, 0, 1, 2, 0, 1], [1, 1, 1, 1, 0.4, 0, 0.6, 0.5], (True,) * 3)
    shown = shown_classes(batch, plain_embedding([ALONG_X] * 3)).flatten().tolist()
    assert shown == [0, 1, 2, 0, UNKNOWN, UNKNOWN, 0, UNKNOWN]


def test_background_is_unknown_where_an_old_class_was_not_looked_for() -> None:
    batch = line_batch([0, 1] * 4, [1.0] * 8, (True, True, False))
    unseen = plain_embedding([ALONG_X, ALONG_X, (0.0, 0.0)])
    assert shown_classes(batch, unseen).flatten().tolist() == [0, 1] * 4
    seen = plain_embedding([ALONG_X, ALONG_X, ALONG_Y])
    assert shown_classes(batch, seen).flatten().tolist() == [UNKNOWN, 1] * 4


def test_the_band_is_two_voxels_wide_and_ends_at_what_is_unknown() -> None:
    classes = torch.tensor([0, 0, 0, 1, 1, 1, UNKNOWN, 0]).reshape(SHAPE)
    near = at_boundary(classes).flatten().tolist()
    assert near == [False, True, True, True, True, True, False, True]


def test_half_of_the_voxels_lie_at_the_boundary() -> None:
    classes = torch.zeros(1, 1, 1, 40, dtype=torch.int64)
    classes[..., 20:] = 1
    drawn = draw_voxels(classes, 4, rng())[:, 3].tolist()
    assert len(drawn) == 8
    assert [one for one in drawn if 18 <= one < 22] == [18, 19, 20, 21]
    for side in (range(20), range(20, 40)):
        assert sum(one in side for one in drawn) == 4


def test_a_class_of_few_voxels_gives_all_it_has() -> None:
    classes = torch.full((2, 1, 1, 8), UNKNOWN)
    classes[1, ..., 3] = 2
    assert draw_voxels(classes, 256, rng()).tolist() == [[1, 0, 0, 3]]
    assert draw_voxels(torch.full_like(classes, UNKNOWN), 256, rng()).tolist() == []


def test_each_voxel_gets_the_class_of_its_nearest_prototype() -> None:
    embedding = plain_embedding([ALONG_X, ALONG_Y, (0.0, 0.0)])
    features = torch.tensor([[3.0, 0.1], [0.2, 5.0]]).T[None, :, None, None]
    # Between the two: 2.3 and 1.325, then 0.9 and 3.8.
    assert nearest_class(embedding, features, (1, 1, 4)).flatten().tolist() == [0, 0, 1, 1]
    none = plain_embedding([(0.0, 0.0)] * 3)
    assert nearest_class(none, features, (1, 1, 2)).flatten().tolist() == [UNKNOWN] * 2


def test_embeddings_lie_between_those_of_the_coarser_grid() -> None:
    features = torch.randn(2, 3, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    size = (4, 6, 8)
    everywhere = torch.nonzero(torch.ones(2, *size))
    fine = torch.nn.functional.interpolate(features, size=size, mode="trilinear")
    expected = fine.movedim(1, -1).reshape(-1, 3)
    torch.testing.assert_close(vectors_at(features, everywhere, size), expected)
    assert vectors_at(features, everywhere[:0], size).shape == (0, 3)


def test_training_on_the_contrast_parts_the_classes() -> None:
    batch = line_batch([0, 0, 0, 0, 1, 1, 1, 1], [1.0] * 8, (True,) * 3)
    embedding = plain_embedding([(0.0, 0.0)] * 4)
    # Half a right angle lies between the classes, as features, and is to be made wider.
    features = torch.zeros(1, 2, 1, 1, 8)
    features[0, :, 0, 0, :4] = torch.tensor([[1.0], [0.0]])
    features[0, :, 0, 0, 4:] = torch.tensor([[ROOT_HALF], [ROOT_HALF]])
    settings = SETTINGS.model_copy(update={"temperature": 0.5})
    optimiser = torch.optim.SGD(embedding.parameters(), lr=0.1)
    losses = []
    for _ in range(50):
        loss = contrast(embedding, features, batch, settings, rng())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    found = nearest_class(embedding, features, (1, 1, 8))
    assert found.flatten().tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert embedding.prototypes[3].norm() == 0  # class 2 was never shown


def test_half_precision_around_it_changes_nothing() -> None:
    batch = line_batch([0, 0, 0, 0, 1, 1, 1, 1], [1.0] * 8, (True,) * 3)
    features = torch.randn(1, 2, 1, 1, 4, generator=torch.Generator().manual_seed(0))
    losses, moved = [], []
    for is_half in (False, True):
        embedding = plain_embedding([ALONG_X, ALONG_X, ALONG_Y, ALONG_Y])
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=is_half):
            losses.append(contrast(embedding, features, batch, SETTINGS, rng()))
        moved.append(embedding.prototypes)
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(moved[0], moved[1])
