"""The bare loop that training is measured against: it learns the same from the same patches."""

import numpy as np
import pytest
import torch
from torch.nn import Conv3d

from client.learning.losses import segmentation_loss
from simulations.bench_training import (
    UNKNOWN,
    PaintedScan,
    Spent,
    cut,
    one_hospital,
    plain_loss,
    train_bare,
)

PLAN = one_hospital(steps=3).plan


def _painted_scan() -> PaintedScan:
    """A bright half on one painted slice."""
    labels = np.full((30, 60, 44), UNKNOWN, np.int64)
    labels[15] = 0
    labels[15, 30:] = 1
    image = torch.zeros(1, *labels.shape)
    image[:, :, 30:] = 1
    return PaintedScan(image, torch.from_numpy(labels), np.argwhere(labels != UNKNOWN))


def test_one_hospital_trains_the_scenarios_network_alone() -> None:
    assert (len(PLAN.tasks), PLAN.limits.hospitals) == (1, 1)
    assert (PLAN.training.steps_per_round, PLAN.training.student_steps_per_round) == (3, 0)
    assert (PLAN.segmenter.channels, PLAN.training.batch_size) == ((16, 32, 64, 128), 4)


def test_its_loss_is_ours_where_all_that_is_painted_is_known() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 4, 5, 6, generator=rng)
    labels = torch.randint(0, 3, (2, 4, 5, 6), generator=rng)
    weight = (torch.rand(2, 4, 5, 6, generator=rng) < 0.5).float()
    target = torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    known = torch.ones_like(target, dtype=torch.bool)
    ours = segmentation_loss(logits, target, weight, known)
    assert float(plain_loss(logits, target * weight[:, None])) == pytest.approx(float(ours))


def test_a_patch_holds_the_painted_slice_and_nothing_else_is_known() -> None:
    scan, rng = _painted_scan(), np.random.default_rng(0)
    for _ in range(5):
        image, classes = cut(scan, PLAN, rng)
        assert image.shape == (1, *PLAN.training.patch_size)
        assert classes.shape == (PLAN.num_classes, *PLAN.training.patch_size)
        known = classes.sum(0)
        assert 0 < known.sum() < known.numel() / 4, "one slice of 24"
        assert classes[2].sum() == 0, "nobody painted the second class"
        assert known.max() <= 1 + 1e-5


def test_the_bare_loop_learns() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Conv3d(1, PLAN.num_classes, 1)
    image, classes = cut(_painted_scan(), PLAN, np.random.default_rng(0))

    def loss() -> float:
        return plain_loss(network(image[None]), classes[None]).item()

    before = loss()
    train_bare(network, [_painted_scan()], PLAN, steps=8)
    assert loss() < before


def test_a_ratio_is_how_much_quicker_ours_was() -> None:
    assert Spent(2.0, 1.0).ratio_to(Spent(1.0, 0.8)) == (0.5, 0.8)
