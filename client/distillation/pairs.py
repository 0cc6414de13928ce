"""Labelled patches, and the patches of other scans that they will be warped onto."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from client.learning.augmentation import draw_change
from client.learning.batches import Batch, choose_scan, stack
from client.learning.examples import Example, cut_patch, draw_centre, unlabelled
from common.plan import FederationPlan
from common.scans import Scan

# Both ends are likelier than the middle (BRBS; He et al., 2022).
BETA = 0.3


@dataclass(frozen=True)
class Pair:
    """Patches stacked; `fixed` are those of the other scans.

    How far each patch goes is drawn with it: `flow_share` is the part of the way to the fixed
    patch's shape, `style_share` the part of the way to its intensities.
    """

    moving: Batch
    fixed: Float[Tensor, "b c i j k"]
    flow_share: Float[Tensor, "b"]
    style_share: Float[Tensor, "b"]

    def to(self, device: torch.device) -> "Pair":
        """The pair on a device."""
        rest = (self.fixed, self.flow_share, self.style_share)
        return Pair(self.moving.to(device), *(part.to(device, non_blocking=True) for part in rest))


@dataclass(frozen=True)
class Cohort:
    """Scans of one hospital that can be warped onto each other.

    Attributes:
        current: scan_ids of the current task, with labels.
        remembered: scan_ids from memory, with labels.
        others: of each of these, scan_ids that it may be warped onto.
        load: a scan with its labels.
        load_image: a scan that may have none.
    """

    current: Sequence[str]
    remembered: Sequence[str]
    others: Mapping[str, Sequence[str]]
    load: Callable[[str], Example]
    load_image: Callable[[str], Scan]


def draw_pairs(
    cohort: Cohort, plan: FederationPlan, *, steps: int, rng: np.random.Generator
) -> Iterator[Pair]:
    """`steps` pairs of batches, the moving ones drawn as training batches are.

    A fixed patch lies where the moving one does, as a share of the scan's sides, and both are
    changed alike: what is left to find is how the two patients differ.
    """
    settings = plan.training
    for _ in range(steps):
        moving, fixed, replayed = [], [], []
        for _ in range(settings.batch_size):
            name = choose_scan(cohort.current, cohort.remembered, plan.replay.share, rng)
            example = cohort.load(name)
            others = cohort.others[name]
            other = cohort.load_image(others[int(rng.integers(len(others)))])
            change = draw_change(settings.augmentation, rng)
            centre = draw_centre(example, settings.patch_size, settings.spacing_mm, rng)
            there = _same_place(centre, example.scan, other)
            unknown = unlabelled(other, example.num_classes)
            size, spacing = settings.patch_size, settings.spacing_mm
            moving.append(cut_patch(example, centre, size, change, spacing))
            fixed.append(cut_patch(unknown, there, size, change, spacing).image)
            replayed.append(name in cohort.remembered)
        shares = torch.from_numpy(rng.beta(BETA, BETA, (2, len(fixed))).astype(np.float32))
        yield Pair(stack(moving, replayed), torch.stack(fixed), shares[0], shares[1])


def _same_place(centre: Sequence[float], here: Scan, there: Scan) -> tuple[float, ...]:
    """The voxel of another scan that lies at the same share of its sides."""
    shapes = zip(centre, here.geometry.shape, there.geometry.shape, strict=True)
    return tuple((c + 0.5) / n * other - 0.5 for c, n, other in shapes)
