"""Patches cut and mixed: whole voxels move, none is lost, and memory keeps to itself."""

from dataclasses import fields

import numpy as np
import pytest
import torch

from client.few_labels.mixing import LONGEST, SHORTEST, mix_patches
from client.learning.batches import Batch

SIZE = (10, 8, 4)


def numbered(replayed: list[bool], *, complete: bool = True) -> Batch:
    """Patches whose every part says, at each voxel, which patch it was in."""
    number = torch.arange(len(replayed), dtype=torch.float32)[:, None, None, None, None]
    image = number.expand(-1, 1, *SIZE).clone()
    classes = number.expand(-1, 3, *SIZE).clone()
    is_odd = image % 2 == 1
    return Batch(
        image=image,
        target=classes,
        weight=image[:, 0].clone(),
        painted=is_odd[:, 0],
        known=is_odd.expand(-1, 3, *SIZE),
        replayed=torch.tensor(replayed),
        old_logits=classes.clone() if complete else None,
        taught=classes.clone() if complete else None,
    )


def mixed(batch: Batch, seed: int = 0) -> Batch:
    return mix_patches(batch, np.random.default_rng(seed))


@pytest.mark.parametrize("seed", range(5))
def test_all_that_is_known_of_a_voxel_moves_with_it(seed: int) -> None:
    batch = mixed(numbered([False] * 4), seed)
    came_from = batch.image
    for part in (batch.target, batch.old_logits, batch.taught):
        assert part is not None
        assert torch.equal(part, came_from.expand_as(part))
    assert torch.equal(batch.weight, came_from[:, 0])
    assert torch.equal(batch.painted, came_from[:, 0] % 2 == 1)
    assert torch.equal(batch.known, (came_from % 2 == 1).expand_as(batch.known))


@pytest.mark.parametrize("seed", range(5))
def test_every_voxel_stays_in_its_place_and_none_is_lost(seed: int) -> None:
    before = numbered([False] * 4)
    after = mixed(before, seed)
    assert torch.equal(after.image.sort(0).values, before.image.sort(0).values)


@pytest.mark.parametrize("seed", range(20))
def test_every_patch_gets_the_box_of_another(seed: int) -> None:
    before = numbered([False] * 6)
    has_moved = mixed(before, seed).image != before.image
    assert torch.equal(has_moved, has_moved[:1].expand_as(has_moved))
    places = has_moved[0, 0].nonzero()
    lengths = (places.amax(0) - places.amin(0) + 1).tolist()
    assert len(places) == np.prod(lengths)  # filled
    for length, side in zip(lengths, SIZE, strict=True):
        assert round(SHORTEST * side) <= length <= round(LONGEST * side)


def test_boxes_and_partners_differ_from_draw_to_draw() -> None:
    drawn = {
        tuple(mixed(numbered([False] * 4), seed).image.flatten().tolist()) for seed in range(9)
    }
    assert len(drawn) > 5


def test_the_same_seed_mixes_alike() -> None:
    one, other = (mixed(numbered([False] * 4), 3) for _ in range(2))
    assert torch.equal(one.image, other.image)


def test_patches_from_memory_swap_with_each_other_alone() -> None:
    met: list[set[float]] = [set() for _ in range(5)]
    for seed in range(20):
        batch = mixed(numbered([False, True, False, True, True]), seed)
        assert batch.replayed.tolist() == [False, True, False, True, True]
        for place, image in enumerate(batch.image):
            met[place] |= set(image.unique().tolist())
    assert met == [{0, 2}, {1, 3, 4}, {0, 2}, {1, 3, 4}, {1, 3, 4}]


def test_a_patch_without_company_stays_as_it_was() -> None:
    before = numbered([False, True], complete=False)
    after = mixed(before)
    for one in fields(Batch):
        was, now = getattr(before, one.name), getattr(after, one.name)
        assert (was is None and now is None) or torch.equal(was, now)
