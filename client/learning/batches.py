"""Training batches mixed from the current task and from memory."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from client.learning.augmentation import draw_change
from client.learning.examples import Example, Patch, cut_patch, draw_centre
from common.learning_settings import Training
from common.plan import FederationPlan


@dataclass(frozen=True)
class Batch:
    """Patches stacked; the letters are those of `Patch` with B in front.

    `replayed` says which patches came from memory; `old_logits` is what the old model of the stage
    makes of the images, where there is one and it is needed; `taught` what a teacher gives to
    voxels without a label, zero where it says nothing.
    """

    image: Float[Tensor, "b c i j k"]
    target: Float[Tensor, "b n i j k"]
    weight: Float[Tensor, "b i j k"]
    painted: Bool[Tensor, "b i j k"]
    known: Bool[Tensor, "b n i j k"]
    replayed: Bool[Tensor, "b"]
    old_logits: Float[Tensor, "b n i j k"] | None = None
    taught: Float[Tensor, "b n i j k"] | None = None

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        parts = (self.image, self.target, self.weight, self.painted, self.known, self.replayed)
        moved = Batch(*(part.to(device, non_blocking=True) for part in parts))
        others = {"old_logits": self.old_logits, "taught": self.taught}
        given = {
            name: part.to(device, non_blocking=True)
            for name, part in others.items()
            if part is not None
        }
        return replace(moved, **given)


def stack(patches: Sequence[Patch], replayed: Sequence[bool]) -> Batch:
    """A batch from patches of the same size, and which of them came from memory."""
    return Batch(
        image=torch.stack([patch.image for patch in patches]),
        target=torch.stack([patch.target for patch in patches]),
        weight=torch.stack([patch.weight for patch in patches]),
        painted=torch.stack([patch.painted for patch in patches]),
        known=torch.stack([patch.known for patch in patches]),
        replayed=torch.tensor(replayed, dtype=torch.bool),
    )


def draw_batches(
    current: Sequence[str],
    remembered: Sequence[str],
    load: Callable[[str], Example],
    plan: FederationPlan,
    *,
    steps: int,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """`steps` batches from the scan_ids of the current task and of the memory.

    Each patch comes from memory with the plan's replay share where both have scans.
    """
    settings, share = plan.training, plan.replay.share
    for _ in range(steps):
        chosen = [choose_scan(current, remembered, share, rng) for _ in range(settings.batch_size)]
        patches = [_draw_patch(load(scan_id), settings, rng) for scan_id in chosen]
        yield stack(patches, [scan_id in remembered for scan_id in chosen])


def choose_scan(
    current: Sequence[str], remembered: Sequence[str], share: float, rng: np.random.Generator
) -> str:
    """One of the scan_ids: with that share from memory, where both have some."""
    from_memory = bool(rng.random() < share)
    pool = remembered if remembered and (from_memory or not current) else current
    return pool[int(rng.integers(len(pool)))]


def _draw_patch(example: Example, settings: Training, rng: np.random.Generator) -> Patch:
    change = draw_change(settings.augmentation, rng)
    centre = draw_centre(example, settings.patch_size, settings.spacing_mm, rng)
    return cut_patch(example, centre, settings.patch_size, change, settings.spacing_mm)
