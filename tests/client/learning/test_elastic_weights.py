"""Elastic weights, on a network of two weights."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Conv3d

from client.learning.batches import Batch
from client.learning.elastic_weights import elastic_term, fisher_information

CPU = torch.device("cpu")


def batch_of(image: Tensor, organ: Tensor) -> Batch:
    shape = organ.shape
    return Batch(
        image=image,
        target=torch.stack([1 - organ, organ], dim=1),
        weight=torch.ones(shape),
        painted=torch.ones(shape, dtype=torch.bool),
        known=torch.ones(shape[0], 2, *shape[1:], dtype=torch.bool),
        replayed=torch.ones(shape[0], dtype=torch.bool),
    )


def one_weight_per_class() -> Conv3d:
    network = Conv3d(1, 2, kernel_size=1, bias=False)
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.5, -0.25]).reshape(2, 1, 1, 1, 1))
    return network


def test_fisher_is_the_mean_square_of_each_patchs_gradient() -> None:
    # One voxel per patch: d(-log p[y]) / d w[c] = (p[c] - [c = y]) * x.
    x, y = [2.0, -1.0, 3.0], [1, 0, 1]
    image = torch.tensor(x).reshape(3, 1, 1, 1, 1)
    organ = torch.tensor(y).float().reshape(3, 1, 1, 1)
    wanted = np.zeros(2)
    for value, label in zip(x, y, strict=True):
        powers = np.exp(np.array([0.5, -0.25]) * value)
        wanted += ((powers / powers.sum() - np.eye(2)[label]) * value) ** 2 / 3
    batches = [batch_of(image[:2], organ[:2]), batch_of(image[2:], organ[2:])]
    network = one_weight_per_class()
    (fisher,) = fisher_information(network, batches, CPU)
    np.testing.assert_allclose(fisher.flatten().numpy(), wanted, rtol=1e-5)
    assert network.weight.grad is None
    torch.testing.assert_close(network.weight, one_weight_per_class().weight)


def test_without_batches_no_weight_matters() -> None:
    (fisher,) = fisher_information(one_weight_per_class(), [], CPU)
    assert float(fisher.abs().sum()) == 0


def test_the_term_by_hand() -> None:
    own, old = [torch.tensor([1.0, 2.0]), torch.tensor([3.0])], [torch.zeros(2), torch.ones(1)]
    fisher = [torch.tensor([1.0, 0.5]), torch.tensor([2.0])]
    # 0.5 * 10 * (1 * 1 + 0.5 * 4 + 2 * 4)
    assert float(elastic_term(own, old, fisher, 10.0)) == pytest.approx(55)


def test_only_weights_that_mattered_are_held() -> None:
    own = torch.tensor([1.0, 1.0]).requires_grad_()
    term = elastic_term([own], [torch.zeros(2)], [torch.tensor([4.0, 0.0])], 2.0)
    (gradient,) = torch.autograd.grad(term, own)
    assert gradient.tolist() == [8.0, 0.0]
