"""What a class of an earlier task counts as on scans where nobody looked for it.

Plain fine-tuning takes it for background, and forgets it. The losses leave it open: background or
that class, no matter which. The third way asks the old model, the one that knew the earlier tasks
before the stage began: it tells how much of what was painted as background is which old class, and
what its outputs were on the same patch. What it never learnt is background to it.

Re-implementation after the published descriptions of MiB (Cermelli et al., "Modeling the background
for incremental learning in semantic segmentation", CVPR 2020), PLOP (Douillard et al., CVPR 2021)
and FedDAH (arXiv 2503.20808), whose pseudo-labels are probabilities here; the distillation is that
of "Learning without forgetting" (Li and Hoiem, ECCV 2016) on the classes that both models know.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Module

from client.learning.batches import Batch
from common.plan import FederationPlan
from common.scans import LabelMap

TEMPERATURE = 2.0
Logits = Float[Tensor, "b n i j k"]
OldLogits = Float[Tensor, "b o i j k"]


@dataclass(frozen=True)
class OldModel:
    """A network that is not trained any more, and the label indexes of the classes it learnt."""

    network: Module
    classes: tuple[int, ...]


def needs_old_model(plan: FederationPlan, stage: int) -> bool:
    """Whether training in a stage asks the old model anything."""
    old, retention = set(plan.taught_indexes(stage - 1)), plan.retention
    if not old:
        return False
    if retention.holds_outputs or retention.elastic_weight > 0:
        return True
    is_open = any(not old <= set(plan.class_indexes(task)) for task in plan.tasks[: stage + 1])
    return retention.old_classes == "distilled" and is_open


def count_as_background(labels: LabelMap, classes: tuple[int, ...]) -> LabelMap:
    """The labels as if somebody had looked for these classes, too, and found none."""
    added = set(classes) - set(labels.classes)
    everything = tuple(sorted({*labels.classes, *added}))
    soft = np.zeros((1 + len(everything), *labels.weight.shape), dtype=labels.soft.dtype)
    soft[[0, *(1 + everything.index(index) for index in labels.classes)]] = labels.soft
    spread = tuple(sorted({*labels.spread, *added}))
    return replace(labels, classes=everything, soft=soft, spread=spread)


def look_with(old: OldModel, batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """The batches on a device, with what the old model makes of their images."""
    old.network.to(device).eval()
    on_cuda = device.type == "cuda"
    for batch in batches:
        moved = batch.to(device)
        with (
            torch.no_grad(),
            torch.autocast(device.type, dtype=torch.float16, enabled=on_cuda),
        ):
            logits = old.network(moved.image)
        yield replace(moved, old_logits=logits.float())


def split_background(batch: Batch, classes: tuple[int, ...]) -> Batch:
    """Splits the background's share of the target among itself and the old classes, where unknown.

    In the ratio of the old model's probabilities; old classes that were looked for at a voxel, and
    are known to be absent or present, take no part. All old classes are known afterwards. Trust and
    what counts as painted stay: where nothing was known, nothing is.
    """
    assert batch.old_logits is not None, "look_with comes first"
    old = list(classes)
    is_open = ~batch.known[:, old]
    probability = torch.softmax(pool_unlearnt(batch.old_logits, classes), dim=1)
    candidates = probability[:, 1:] * is_open
    shares = candidates / (probability[:, :1] + candidates.sum(1, keepdim=True)).clamp_min(1e-6)
    # Of an open class the labels may have a share already, which nobody vouches for.
    undecided = batch.target[:, :1] + (batch.target[:, old] * is_open).sum(1, keepdim=True)
    target, known = batch.target.clone(), batch.known.clone()
    target[:, old] = torch.where(is_open, undecided * shares, target[:, old])
    target[:, :1] = undecided * (1 - shares.sum(1, keepdim=True))
    known[:, old] = True
    return replace(batch, target=target, known=known)


def distillation_loss(
    logits: Logits, old_logits: Logits, classes: tuple[int, ...], strength: Float[Tensor, "b"]
) -> Tensor:
    """How far the outputs are from the old model's: the mean over all voxels of all patches.

    The Kullback-Leibler divergence from the old to the new probabilities of the old classes and the
    rest, both softened by the temperature, times each patch's strength.
    """
    was = torch.log_softmax(pool_unlearnt(old_logits, classes) / TEMPERATURE, dim=1)
    now = torch.log_softmax(pool_unlearnt(logits, classes) / TEMPERATURE, dim=1)
    per_voxel = (was.exp() * (was - now)).sum(1)
    # Softened gradients are smaller by the square of the temperature (Hinton et al., 2015).
    return TEMPERATURE**2 * (per_voxel.mean((1, 2, 3)) * strength).mean()


def pool_unlearnt(logits: Logits, classes: tuple[int, ...]) -> OldLogits:
    """Logits of the background and the classes: all others add up to the background."""
    rest = [index for index in range(logits.shape[1]) if index not in classes]
    background = torch.logsumexp(logits[:, rest].float(), dim=1, keepdim=True)
    return torch.cat([background, logits[:, list(classes)].float()], dim=1)
