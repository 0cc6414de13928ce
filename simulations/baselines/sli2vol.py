"""Sli2Vol: self-supervised correspondence between slices, with verification at every step.

A re-implementation in own code after the published description and recipe (Yeung, Namburete, Xie,
MICCAI 2021): smooth L1 between a slice and its neighbour's rebuilding of it; hard labels at each
step; a pixel is kept if its intensity is nearer to the mean inside the mask of the slice before
than to the mean of a ring around it. Intensities are brought to [0, 255] first, as the recipe did.
It differs in what a small machine asks for: slices stay on their own grid, training sees patches of
at most 64 x 64 pixels, the random intensity window is a share of the stack's range instead of
Hounsfield units, the length of training is the caller's, and it may start from any slice.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Integer
from scipy import ndimage
from torch import Tensor

from simulations.baselines.grey import grey_stack
from simulations.baselines.sli2vol_network import (
    SIGHT_VOXELS,
    WINDOW_RADIUS,
    Encoder,
    apply_affinity,
    slice_affinity,
)
from simulations.baselines.walk import one_hot, walk_outwards, window_around

BRIGHTEST = 255.0
LEARNING_RATE = 1e-4
LEARNING_STAGES = 3  # the learning rate is halved from each to the next
PAIRS_PER_BATCH = 5
PATCH_VOXELS = 64
RING_VOXELS = 5
CLOSING_STEPS = 2


def train_sli2vol(
    stacks: Sequence[Float[Tensor, "_ _ _ _"]],
    seconds: float,
    seed: int,
    *,
    steps: int | None = None,
    device: torch.device | None = None,
) -> Encoder:
    """An encoder whose features rebuild slices from their neighbours; needs no label.

    Args:
        stacks: z-scored scans (C, D, H, W) of any sizes, slices along D. A stack of a single slice
            has no pairs and teaches nothing; without others, the first weights are returned.
        seconds: for how long to train, unless `steps` is given, which repeats exactly.
        seed: draws the first weights, pairs, patches and intensity changes.
        steps: how many batches to train on, whatever time that takes.
        device: where to train and, later, to propagate; the CPU if not given.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Encoder().to(device or torch.device("cpu"))
    usable = [stack for stack in stacks if stack.shape[1] > 1]
    rng = np.random.default_rng(seed)
    optimiser = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for done in _shares_done(seconds, steps if usable else 0):
        stage = min(int(LEARNING_STAGES * done), LEARNING_STAGES - 1)
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * 0.5**stage
        source, target = draw_pairs(usable, rng)
        loss = rebuilding_loss(network, source.to(device), target.to(device))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return network.eval()


def _shares_done(seconds: float, steps: int | None) -> Iterator[float]:
    """How much of the training is over, from 0 to 1, before each of its steps."""
    if steps is not None:
        yield from (step / steps for step in range(steps))
        return
    started = time.perf_counter()
    while (done := (time.perf_counter() - started) / seconds) < 1:
        yield done


def draw_pairs(
    stacks: Sequence[Float[Tensor, "_ _ _ _"]], rng: np.random.Generator
) -> tuple[Float[Tensor, "b y x"], Float[Tensor, "b y x"]]:
    """Neighbouring slices of one stack: the same patch, window and gamma on both of a pair.

    The darkest and brightest tenth of the range may be cut off, and gamma lies in [0.5, 2].
    """
    grey = grey_stack(stacks[int(rng.integers(len(stacks)))], 1.0)
    rows, columns = (_draw_span(length, rng) for length in grey.shape[1:])
    first = torch.from_numpy(rng.integers(len(grey) - 1, size=PAIRS_PER_BATCH))
    ahead = rng.random() < 0.5
    low, high = rng.uniform(0, 0.1), rng.uniform(0.9, 1)
    gamma = 2 ** rng.uniform(-1, 1)
    changed = BRIGHTEST * ((grey - low) / (high - low)).clamp(0, 1) ** gamma
    one, other = changed[first, rows, columns], changed[first + 1, rows, columns]
    return (one, other) if ahead else (other, one)


def _draw_span(length: int, rng: np.random.Generator) -> slice:
    first = int(rng.integers(max(length - PATCH_VOXELS, 0) + 1))
    return slice(first, first + PATCH_VOXELS)


def rebuilding_loss(
    network: Encoder, source: Float[Tensor, "b h w"], target: Float[Tensor, "b h w"]
) -> Float[Tensor, ""]:
    """Smooth L1 between the target slices and what their sources make of them."""
    source_features, target_features = network(torch.cat([source, target])).chunk(2)
    affinity = slice_affinity(target_features, source_features)
    rebuilt = apply_affinity(affinity, source[:, None])[:, 0]
    return F.smooth_l1_loss(rebuilt, target)


@torch.no_grad()
def propagate_sli2vol(
    network: Encoder,
    stack: Float[Tensor, "c d h w"],
    painted: Float[Tensor, "n h w"],
    start: int,
) -> Float[Tensor, "n d h w"]:
    """The painted labels carried by the network's affinity and verified, slice by slice."""
    device = next(network.parameters()).device
    grey = grey_stack(stack, BRIGHTEST)

    def step(here: int, there: int, soft: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
        # Labels move one window at most; what the pixels there look like depends on a little more.
        rows, columns = window_around(soft[1:], 2 * WINDOW_RADIUS + SIGHT_VOXELS)
        pair = grey[[here, there], rows, columns].to(device)
        source, target = network(pair).chunk(2)
        known = soft[:, rows, columns]
        carried = apply_affinity(slice_affinity(target, source), known[None].to(device))[0]
        # Zeros beyond the edge are no class: a pixel that sees nothing else is background.
        labels = carried.argmax(0).cpu().numpy()
        kept = verify(labels, known.argmax(0).numpy(), pair.cpu().numpy())
        everywhere = torch.zeros(soft.shape[1:], dtype=torch.int64)
        everywhere[rows, columns] = torch.from_numpy(kept)
        return one_hot(everywhere, len(soft))

    return walk_outwards(painted, stack.shape[1], start, step)


def verify(
    carried: Integer[np.ndarray, "h w"],
    known: Integer[np.ndarray, "h w"],
    pair: Float[np.ndarray, "2 h w"],
) -> Integer[np.ndarray, "h w"]:
    """The carried labels without pixels that look like the structure's surroundings.

    Each class is verified, its holes are filled and its gaps closed; where that reaches into
    another class, the other class stays.

    Args:
        carried: labels that arrived on the second slice.
        known: labels of the first slice.
        pair: intensities of both slices.
    """
    kept = np.zeros_like(carried)
    grown = np.zeros_like(carried)
    for label in np.unique(carried[carried > 0]):
        mask = (carried == label) & _looks_inside(known == label, pair)
        kept[mask] = label
        filled = ndimage.binary_fill_holes(mask)
        grown[ndimage.binary_closing(filled, iterations=CLOSING_STEPS) | filled] = label
    return np.where(kept > 0, kept, grown)


def _looks_inside(
    inside: Bool[np.ndarray, "h w"], pair: Float[np.ndarray, "2 h w"]
) -> Bool[np.ndarray, "h w"]:
    """Where the second slice is nearer in intensity to the first one's mask than to its ring."""
    ring = ndimage.binary_dilation(inside, iterations=RING_VOXELS) & ~inside
    if not ring.any():
        return np.ones_like(inside)
    inside_mean, ring_mean = pair[0][inside].mean(), pair[0][ring].mean()
    return np.abs(pair[1] - inside_mean) <= np.abs(pair[1] - ring_mean)  # type: ignore[no-any-return]
