"""Self-learning: the correspondence network rebuilds a slice from its neighbour, without a label.

After OneSeg (Wu et al., MICCAI 2022; re-implementation after the published description): chains of
slices, in which a growing share of steps starts from the network's own reconstruction (scheduled
sampling), so that it learns to live with its drift; and a way back to the first slice, so that
there and back agree.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import Module

from client.learning.round_clock import NO_LIMIT, RoundClock
from client.learning.train import train
from client.propagation.soft_affinity import for_descriptors, match, rebuild
from common.networks.correspondence import CorrespondenceNetwork
from common.plan import Correspondence, FederationPlan, Propagation
from common.scans import Scan

GAIN_SPREAD, BIAS_SPREAD = 0.15, 0.1
SKIP_SHARE = 1 / 3  # of chains that go two slices at a time
LAST_RATE_SHARE = 0.1


@dataclass(frozen=True)
class Chains:
    """Slices that follow each other, and at which steps the network's own reconstruction goes on.

    Attributes:
        slices: (B, M, C, H, W).
        own: (B, M - 1); False in the first column, where there is no reconstruction yet.
    """

    slices: Float[Tensor, "b m c h w"]
    own: Bool[Tensor, "b steps"]

    def to(self, device: torch.device) -> "Chains":
        """The chains on a device."""
        return Chains(self.slices.to(device, non_blocking=True), self.own.to(device))


def learn_correspondence(  # noqa: PLR0913  (the loop needs all of them, and they form no group)
    network: CorrespondenceNetwork,
    scans: Sequence[tuple[Scan, int]],
    plan: FederationPlan,
    *,
    part: tuple[int, int],
    rng: np.random.Generator,
    device: torch.device,
    clock: RoundClock = NO_LIMIT,
) -> float | None:
    """Trains in place; the mean loss, None without a scan that has enough slices or any time.

    Args:
        network: to be trained.
        scans: each with the axis along which its slices are painted.
        plan: sizes, weights, the search window.
        part: (k, n): the k-th of n equal parts of the whole training, k from 1. The learning rate
            falls and the share of own reconstructions grows from part to part.
        rng: draws the chains.
        device: where to train.
        clock: when to stop early.
    """
    settings, window = plan.correspondence, plan.propagation
    long_enough = [one for one in scans if _depth(one) >= settings.chain_slices]
    if not long_enough:
        return None
    number, of = part
    done = (number - 1) / max(of - 1, 1)
    own_share = settings.own_reconstruction_share * done
    steps = max(1, settings.steps // of)

    def loss(learning: Module, chains: Chains) -> Tensor:
        return reconstruction_loss(learning, chains, settings, window)

    return train(
        network,
        clock.until_over(
            draw_chains(long_enough, settings, steps=steps, own_share=own_share, rng=rng)
        ),
        loss,
        plan.training,
        learning_rate=settings.learning_rate * (1 - (1 - LAST_RATE_SHARE) * done),
        device=device,
    )


def reconstruction_loss(
    network: Module, chains: Chains, settings: Correspondence, window: Propagation
) -> Tensor:
    """Smooth L1 of every step of the chains, and of the first slice after the way back."""
    batch, length = chains.slices.shape[:2]
    descriptors = network(chains.slices.flatten(0, 1)).unflatten(0, (batch, length))
    window = for_descriptors(window, settings.descriptor_length)
    current = chains.slices[:, 0]
    total = torch.zeros((), device=current.device)
    for step in range(length - 1):
        given = chains.slices[:, step]
        source = torch.where(chains.own[:, step, None, None, None], current, given)
        current = _hop(descriptors[:, step], descriptors[:, step + 1], source, window)
        total = total + F.smooth_l1_loss(current, chains.slices[:, step + 1])
    for step in reversed(range(length - 1)):
        current = _hop(descriptors[:, step + 1], descriptors[:, step], current, window)
    there_and_back = F.smooth_l1_loss(current, chains.slices[:, 0])
    return total / (length - 1) + settings.cycle_weight * there_and_back


def _hop(
    source: Float[Tensor, "b k h w"],
    target: Float[Tensor, "b k h w"],
    image: Float[Tensor, "b c h w"],
    window: Propagation,
) -> Float[Tensor, "b c h w"]:
    """The target slice rebuilt from the source slice's `image`."""
    affinity = match(source, target, window)
    return rebuild(affinity, image, window.search_radius_voxels)


def draw_chains(
    scans: Sequence[tuple[Scan, int]],
    settings: Correspondence,
    *,
    steps: int,
    own_share: float,
    rng: np.random.Generator,
) -> Iterator[Chains]:
    """Batches of chains cut from random places of random scans, flipped and changed in contrast."""
    for _ in range(steps):
        drawn = [
            _draw_chain(*scans[int(rng.integers(len(scans)))], settings, rng)
            for _ in range(settings.batch_size)
        ]
        own = rng.random((settings.batch_size, settings.chain_slices - 1)) < own_share
        own[:, 0] = False
        yield Chains(torch.from_numpy(np.stack(drawn)), torch.from_numpy(own))


def _draw_chain(
    scan: Scan, axis: int, settings: Correspondence, rng: np.random.Generator
) -> Float[np.ndarray, "m c h w"]:
    volume = np.moveaxis(np.asarray(scan.image), 1 + axis, 0)
    length = settings.chain_slices
    can_skip = volume.shape[0] >= 2 * length - 1
    stride = 2 if can_skip and rng.random() < SKIP_SHARE else 1
    first = int(rng.integers(volume.shape[0] - stride * (length - 1)))
    slices = volume[first : first + stride * (length - 1) + 1 : stride]
    crop = _crop(np.asarray(slices, dtype=np.float32), settings.crop_voxels, rng)
    for place in (0, 2, 3):
        crop = np.flip(crop, place) if rng.random() < 0.5 else crop
    gain, bias = np.exp(GAIN_SPREAD * rng.standard_normal()), BIAS_SPREAD * rng.standard_normal()
    return np.ascontiguousarray(crop * np.float32(gain) + np.float32(bias))


def _crop(
    slices: Float[np.ndarray, "m c h w"], size: int, rng: np.random.Generator
) -> Float[np.ndarray, "m c a a"]:
    """A square of `size` pixels somewhere; what is missing repeats the edge."""
    missing = [max(0, size - n) for n in slices.shape[2:]]
    padded = np.pad(slices, [(0, 0), (0, 0), *((0, n) for n in missing)], mode="edge")
    row, column = (int(rng.integers(n - size + 1)) for n in padded.shape[2:])
    return padded[:, :, row : row + size, column : column + size]


def _depth(one: tuple[Scan, int]) -> int:
    scan, axis = one
    return int(scan.geometry.shape[axis])
