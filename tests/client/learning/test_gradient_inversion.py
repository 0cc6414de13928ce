"""The attack finds what is there to be found, and nothing where there is nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Module
from torch.nn.functional import cross_entropy

from client.learning.gradient_inversion import (
    Loss,
    correlations,
    cosine,
    gradient_of,
    rebuild_images,
    total_variation,
)

SHAPE = (1, 1, 6, 6, 6)


@pytest.fixture
def network() -> Module:
    """One layer: the gradient of its weights is the image times a number for each class."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(216, 4))


@pytest.fixture
def loss() -> Loss:
    """All images are of the third class."""

    def of(network: Module, images: Tensor) -> Tensor:
        return cross_entropy(network(images), torch.full((len(images),), 2))

    return of


def _noise(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_an_image_is_rebuilt_from_its_gradient(network: Module, loss: Loss) -> None:
    image, guess = _noise(1), _noise(2)
    target = gradient_of(network, loss, image)
    # By hand: the gradient of the third class's weights is (p - 1) times the image.
    assert float(correlations(target[0][2].view(SHAPE), image)) == pytest.approx(-1, abs=1e-4)
    rebuilt = rebuild_images(network, loss, target, guess, iterations=150)
    assert float(correlations(rebuilt, image)) > 0.9
    assert abs(float(correlations(guess, image))) < 0.2
    # The length of what was seen does not matter: a round's update is longer than a gradient.
    longer = [100 * one for one in target]
    again = rebuild_images(network, loss, longer, guess, iterations=150)
    assert float(correlations(again, image)) > 0.9


def test_nothing_is_rebuilt_from_noise_or_from_another_gradient(
    network: Module, loss: Loss
) -> None:
    image, guess = _noise(1), _noise(2)
    noise = [_noise(place, tuple(one.shape)) for place, one in enumerate(network.parameters(), 5)]
    other = gradient_of(network, loss, _noise(3))
    for target in (noise, other):
        rebuilt = rebuild_images(network, loss, target, guess, iterations=150)
        assert abs(float(correlations(rebuilt, image))) < 0.3


def test_the_network_is_left_as_it_was(network: Module, loss: Loss) -> None:
    before = [one.detach().clone() for one in network.parameters()]
    target = gradient_of(network, loss, _noise(1))
    rebuild_images(network, loss, target, _noise(2), iterations=2)
    for one, was in zip(network.parameters(), before, strict=True):
        torch.testing.assert_close(one.detach(), was, rtol=0, atol=0)
        assert one.grad is None


def test_correlations_by_hand() -> None:
    ramp = torch.arange(8.0).view(1, 1, 2, 2, 2)
    others = torch.cat([3 * ramp + 5, -ramp, torch.ones_like(ramp)])
    torch.testing.assert_close(correlations(ramp, others), torch.tensor([[1.0, -1.0, 0.0]]))


def test_cosine_and_total_variation_by_hand() -> None:
    one = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])]
    other = [torch.tensor([1.0, 0.0]), torch.tensor([0.0])]
    assert float(cosine(one, other)) == pytest.approx(0.6)
    ramp = torch.arange(4.0).view(1, 1, 4, 1, 1)  # steps of one along one axis
    assert float(total_variation(ramp)) == 1.0
