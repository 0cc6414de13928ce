"""What the correspondence network sees, and the laws of its descriptors."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from common.networks.correspondence import build_correspondence, edge_profile
from common.plan import Correspondence

SMALL = Correspondence(channels=6, layers=2, descriptor_length=5, edge_radius_voxels=1)


def texture(*shape: int, smooth: float = 0.0) -> Tensor:
    """Values around 0 with a spread of 1, as normalised scans have."""
    values = np.random.default_rng(0).normal(size=shape)
    values = ndimage.gaussian_filter(values, (0,) * (len(shape) - 2) + (smooth, smooth))
    return torch.from_numpy(((values - values.mean()) / values.std()).astype(np.float32))


def entropy(profile: Tensor) -> float:
    """Mean over pixels, in nats."""
    return float(torch.special.entr(profile).sum(1).mean())


def test_the_profile_of_an_edge_by_hand() -> None:
    # Dark left, bright right. Of the eight neighbours of a pixel just left of the edge five are as
    # dark as it is (difference 0) and three brighter by 1 (difference -1, times the gain).
    slices = torch.zeros(1, 1, 5, 6)
    slices[..., 3:] = 1
    profile = edge_profile(slices, 1, 2.0)[0, :, 2, 2].reshape(8)
    bright = math.exp(-2) / (5 + 3 * math.exp(-2))
    dark = 1 / (5 + 3 * math.exp(-2))
    # Row by row, the pixel itself left out.
    wanted = [dark, dark, bright, dark, bright, dark, dark, bright]
    torch.testing.assert_close(profile, torch.tensor(wanted))


@pytest.mark.parametrize("radius", [1, 2, 3])
def test_where_nothing_differs_the_profile_is_flat(radius: int) -> None:
    profile = edge_profile(torch.full((2, 1, 7, 8), 3.0), radius, 6.0)
    neighbours = (2 * radius + 1) ** 2 - 1
    assert profile.shape == (2, neighbours, 7, 8)
    torch.testing.assert_close(profile, torch.full_like(profile, 1 / neighbours))


def test_without_gain_the_profile_is_blank_and_with_it_not() -> None:
    # The trap: in a range of one or so 48 neighbours are told apart by 0.007 nats of log 48.
    slices = texture(1, 1, 32, 32, smooth=1.5)
    in_unit_range = (slices - slices.min()) / (slices.max() - slices.min())
    assert math.log(48) - 0.03 < entropy(edge_profile(in_unit_range, 3, 1.0)) < math.log(48)
    # With the plan's own settings, on intensities as they come: a bit more than one nat to two.
    settings = Correspondence()
    seen = entropy(edge_profile(slices, settings.edge_radius_voxels, settings.edge_gain))
    assert 0.5 < seen < 2
    assert seen < math.log(24) - 1
    # More gain, sharper profile.
    sharpness = [entropy(edge_profile(slices, 2, gain)) for gain in (0.1, 1, 6, 30)]
    assert sharpness == sorted(sharpness, reverse=True)


def test_each_channels_profile_sums_to_one() -> None:
    profile = edge_profile(texture(2, 3, 6, 7), 2, 6.0)
    assert profile.shape == (2, 3 * 24, 6, 7)
    sums = profile.unflatten(1, (3, 24)).sum(2)
    torch.testing.assert_close(sums, torch.ones(2, 3, 6, 7))


def test_brightness_is_not_seen() -> None:
    slices, network = texture(1, 1, 9, 8), build_correspondence(1, SMALL, 0)
    torch.testing.assert_close(network(slices), network(slices + 2), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(network(slices), network(-slices), rtol=1e-2, atol=1e-2)


def test_a_descriptor_of_the_learned_length_for_every_pixel() -> None:
    network = build_correspondence(2, SMALL, 0)
    with torch.no_grad():
        network.log_length.fill_(math.log(3))
    descriptors = network(texture(4, 2, 9, 8))
    assert descriptors.shape == (4, 5, 9, 8)
    torch.testing.assert_close(descriptors.norm(dim=1), torch.full((4, 9, 8), 3.0))


def test_descriptors_move_with_the_picture() -> None:
    network, slices = build_correspondence(1, SMALL, 0), texture(1, 1, 20, 20)
    moved = network(slices.roll((2, 3), dims=(2, 3)))
    # Edges of the profile and two convolutions: three pixels from the border all is the same.
    inside = moved[..., 5:-3, 6:-3]
    torch.testing.assert_close(inside, network(slices)[..., 3:-5, 3:-6])


def test_a_batch_is_described_as_each_slice_by_itself() -> None:
    network, slices = build_correspondence(1, SMALL, 0), texture(3, 1, 9, 8)
    together = network(slices)
    for number in range(3):
        torch.testing.assert_close(together[number : number + 1], network(slices[number][None]))


def test_the_first_weights_come_from_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_correspondence(1, SMALL, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    for one, same in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, same)
    assert not torch.equal(first.layers[0].weight, other.layers[0].weight)


def test_a_network_without_layers_between_looks_at_one_profile_only() -> None:
    bare = build_correspondence(1, SMALL.model_copy(update={"layers": 0}), 0)
    slices = texture(1, 1, 9, 9)
    changed = slices.clone()
    changed[..., 0, 0] += 5
    differs = (bare(slices) != bare(changed)).any(1)[0]
    assert differs[:2, :2].all()
    assert not differs[2:].any()
    assert not differs[:, 2:].any()
