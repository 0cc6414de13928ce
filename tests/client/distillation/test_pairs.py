"""Which patches are paired, and where they lie."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from client.distillation.pairs import Cohort, Pair, draw_pairs
from client.learning.examples import Example
from common.plan import FederationPlan
from common.random_streams import generator
from common.scans import Geometry, LabelMap, Scan

MakeCohort = Callable[..., Cohort]
STILL = {"rotation_degrees": (0, 0, 0), "scale": 0, "log_gamma": 0, "gain": 0, "noise": 0}


def scan(name: str, shape: tuple[int, int, int], bright: tuple[int, int, int]) -> Scan:
    """One bright voxel."""
    image = np.zeros((1, *shape), dtype=np.float32)
    image[(0, *bright)] = 1
    affine = tuple(tuple(float(row == column) for column in range(4)) for row in range(4))
    return Scan(name, image, Geometry(shape, affine), "MR")


def labelled(one: Scan) -> Example:
    """The bright voxel is the organ, and the only thing that is known."""
    organ = one.image[0] > 0
    labels = LabelMap(
        classes=(1,),
        soft=np.stack([~organ, organ]).astype(np.float32),
        weight=organ.astype(np.float32),
        expert=organ,
        spread=(1,),
        source="expert",
    )
    return Example(one, labels, 2)


@pytest.fixture
def cohort() -> Cohort:
    """A scan of 16 voxels a side and one of twice that, their organ at the same share of it."""
    scans = {"a": scan("a", (16, 16, 16), (7, 7, 7)), "b": scan("b", (32, 32, 32), (15, 15, 15))}
    return Cohort(["a"], [], {"a": ["b"]}, lambda one: labelled(scans[one]), scans.__getitem__)


@pytest.fixture
def still(plan: FederationPlan) -> FederationPlan:
    """Small patches that are cut as they are."""
    values = plan.model_dump()
    values["training"].update(patch_size=(8, 8, 8), batch_size=3, augmentation=STILL)
    return FederationPlan.model_validate(values)


def drawn(cohort: Cohort, plan: FederationPlan, steps: int = 4) -> list[Pair]:
    return list(draw_pairs(cohort, plan, steps=steps, rng=generator(0, "pairs")))


def test_a_fixed_patch_lies_where_the_moving_one_does(
    cohort: Cohort, still: FederationPlan
) -> None:
    for pair in drawn(cohort, still):
        assert pair.moving.image.shape == pair.fixed.shape == (3, 1, 8, 8, 8)
        for moving, fixed in zip(pair.moving.image, pair.fixed, strict=True):
            here, there = (np.array(np.unravel_index(int(one.argmax()), (8, 8, 8)))
                           for one in (moving, fixed))  # fmt: skip
            assert moving.max() == 1
            # Where the moving patch lies off the organ, the other does by twice as many voxels.
            if fixed.max() == 1:
                assert np.abs(2 * (here - 3.5) - (there - 3.5)).max() <= 2


def test_a_scan_is_paired_with_the_others_it_may_be(cohort: Cohort, still: FederationPlan) -> None:
    with_itself = replace(cohort, others={"a": ["a"]})
    for pair in drawn(with_itself, still):
        assert torch.equal(pair.moving.image, pair.fixed)


def test_both_patches_are_changed_alike(cohort: Cohort, still: FederationPlan) -> None:
    values = still.model_dump()
    del values["training"]["augmentation"]
    changed = FederationPlan.model_validate(values)
    pairs = drawn(replace(cohort, others={"a": ["a"]}), changed)
    assert all(torch.equal(pair.moving.image, pair.fixed) for pair in pairs)
    assert not torch.equal(pairs[0].fixed, pairs[1].fixed)


def test_the_shares_of_the_way_lie_between_nothing_and_all(
    cohort: Cohort, still: FederationPlan
) -> None:
    pairs = drawn(cohort, still, steps=12)
    shares = torch.cat([torch.stack([one.flow_share, one.style_share]) for one in pairs], dim=1)
    assert ((shares >= 0) & (shares <= 1)).all()
    # Of Beta(0.3, 0.3) more than half lies within a tenth of the ends.
    assert ((shares - 0.5).abs() > 0.4).float().mean() > 0.3
    assert not torch.equal(shares[0], shares[1])


def test_the_generator_alone_fixes_the_pairs(cohort: Cohort, still: FederationPlan) -> None:
    for one, other in zip(drawn(cohort, still), drawn(cohort, still), strict=True):
        assert torch.equal(one.moving.image, other.moving.image)
        assert torch.equal(one.flow_share, other.flow_share)
