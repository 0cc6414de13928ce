"""Second stage: a moving average of the segmenter labels what nobody labelled.

After exemplar learning (ELSNet; En and Guo, BMVC 2022), with the mean teacher of Tarvainen and
Valpola (2017); re-implementation after the published descriptions. The teacher's probabilities are
the labels, not its likeliest classes, and its patches come from scans without any annotation, too.

A network that learns from its own labels can confirm its own mistakes. Against that: whatever has a
label keeps it, and the pseudo-labels are a term beside the labels' own, so that no number of their
voxels outweighs what was painted; the teacher begins each round at the federation's mean and hardly
moves within it; it counts only where it is sure and where the prototypes, which rest on labels
alone, agree; it begins when a stage is half done, and, where the plan asks for it, speaks only of
classes that the segmenter has earned on slices that no hospital trained on, as it has to before it
joins spread labels; and nothing is kept: each step makes its pseudo-labels anew. It sees more than
its pupil: patches are cut and mixed once it has looked.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn import Module

from client.few_labels.mixing import mix_patches
from client.few_labels.prototypes import UNKNOWN, nearest_class
from client.learning.augmentation import draw_change
from client.learning.batches import Batch, stack
from client.learning.examples import Patch, cut_patch, draw_centre, unlabelled
from client.learning.losses import Logits, segmentation_loss
from client.learning.train_models import LossTerm
from common.learning_settings import PseudoLabels, Training
from common.networks.embedding import Embedding
from common.networks.unet import features_and_logits
from common.plan import FederationPlan
from common.scans import Scan


@dataclass(frozen=True)
class Teaching:
    """What a round's teacher has to say: the weight of its loss term, and of which classes.

    A weight of 0: nothing, and there is no teacher.
    """

    weight: float
    classes: frozenset[int]


def teaching_of(
    plan: FederationPlan, share_of_stage_done: float, held_back_dice: Mapping[str, float]
) -> Teaching:
    """The weight rises once its part of the stage has come, if any class is earned.

    `held_back_dice`: by the names of classes, on the slices that all hospitals hold back. A class
    without one is not earned.
    """
    settings = plan.few_labels.pseudo_labels
    least = settings.teacher_from
    earned = frozenset(
        label.index
        for label in plan.labels
        if least is None or held_back_dice.get(label.name, -1.0) >= least
    )
    return Teaching(ramped_weight(settings, share_of_stage_done) if earned else 0.0, earned)


class Teacher:
    """A moving average of a segmenter in training, and the prototypes that must agree, if any.

    It speaks of `classes`; the others are background to it.
    """

    def __init__(
        self,
        segmenter: Module,
        settings: PseudoLabels,
        embedding: Embedding | None,
        classes: frozenset[int],
    ) -> None:
        """It begins as the segmenter is now."""
        self.network = copy.deepcopy(segmenter).eval().requires_grad_(False)
        self.settings = settings
        self.embedding = embedding
        self.classes = classes

    def speaks_of(self, num_classes: int, device: torch.device) -> Bool[Tensor, " n"]:
        """Which channels it tells apart; the background is one of them."""
        told = [index == 0 or index in self.classes for index in range(num_classes)]
        return torch.tensor(told, device=device)

    @torch.no_grad()
    def follow(self, segmenter: Module) -> None:
        """Moves towards the segmenter."""
        pairs = zip(self.network.parameters(), segmenter.parameters(), strict=True)
        for own, other in pairs:
            own.lerp_(other, 1 - self.settings.momentum)

    @torch.no_grad()
    def teach(self, batch: Batch) -> Logits:
        """Its probabilities where they count; zero at labels and where it is in doubt."""
        on_cuda = batch.image.is_cuda
        with torch.autocast(batch.image.device.type, dtype=torch.float16, enabled=on_cuda):
            features, logits = features_and_logits(self.network, batch.image)
        told = self.speaks_of(logits.shape[1], logits.device)
        taught = torch.softmax(logits.float(), dim=1)
        untold = (taught * ~told[:, None, None, None]).sum(1)
        taught = taught * told[:, None, None, None]
        taught[:, 0] += untold
        sure, classes = taught.max(1)
        counts = (batch.weight == 0) & (sure >= self.settings.confidence)
        if self.embedding is not None:
            nearest = nearest_class(self.embedding, features, classes.shape[1:])
            counts &= (nearest != UNKNOWN) & (torch.where(told[nearest], nearest, 0) == classes)
        return taught * counts[:, None]


def second_stage(  # noqa: PLR0913  (all that a round has at hand)
    batches: Iterator[Batch],
    segmenter: Module,
    embedding: Embedding | None,
    settings: PseudoLabels,
    *,
    teaching: Teaching,
    device: torch.device,
    rng: np.random.Generator,
) -> tuple[Iterator[Batch], list[LossTerm]]:
    """The batches with pseudo-labels, made as they are drawn, and the term that learns from them.

    The teacher begins as the segmenter is now, and follows it from step to step. The share that is
    mixed rises with the weight.
    """
    weight = teaching.weight
    if weight == 0:
        return batches, []
    mixed_share = settings.mixed_share * weight / settings.weight
    teacher = Teacher(segmenter.to(device), settings, embedding, teaching.classes)

    def taught() -> Iterator[Batch]:
        for batch in batches:
            teacher.follow(segmenter)
            whole = batch.to(device)
            whole = replace(whole, taught=teacher.teach(whole))
            yield mix_patches(whole, rng) if rng.random() < mixed_share else whole

    def term(_network: Module, batch: Batch, logits: Logits) -> Tensor:
        assert batch.taught is not None  # the batches went through `taught`
        counts = batch.taught.sum(1)
        told = teacher.speaks_of(logits.shape[1], logits.device)
        known = told[:, None, None, None].expand_as(batch.known)
        return weight * segmentation_loss(logits, batch.taught, counts, known)

    return taught(), [term]


def ramped_weight(settings: PseudoLabels, share_of_stage_done: float) -> float:
    """0 in the first part of a stage; then it rises in a straight line to the full weight."""
    since = max(share_of_stage_done - settings.begins_at, 0.0)
    return settings.weight * min(since / settings.ramp_share, 1.0)


def add_unannotated(
    batches: Iterator[Batch],
    scan_ids: Sequence[str],
    load: Callable[[str], Scan],
    plan: FederationPlan,
    rng: np.random.Generator,
    *,
    teaching: Teaching,
) -> Iterator[Batch]:
    """The batches with a few more patches each, from scans of which nothing is known.

    As they came where there are no such scans, or nobody teaches on them yet.
    """
    settings, number = plan.training, plan.few_labels.pseudo_labels.unannotated
    if not scan_ids or number == 0 or teaching.weight == 0:
        return batches

    def added() -> Iterator[Batch]:
        for batch in batches:
            chosen = [scan_ids[int(rng.integers(len(scan_ids)))] for _ in range(number)]
            patches = [
                _draw_unlabelled(load(scan_id), plan.num_classes, settings, rng)
                for scan_id in chosen
            ]
            yield join(batch, stack(patches, [False] * number))

    return added()


def join(first: Batch, second: Batch) -> Batch:
    """Two fresh batches as one."""
    pairs = (
        (first.image, second.image),
        (first.target, second.target),
        (first.weight, second.weight),
        (first.painted, second.painted),
        (first.known, second.known),
        (first.replayed, second.replayed),
    )
    return Batch(*(torch.cat(pair) for pair in pairs))


def _draw_unlabelled(
    scan: Scan, num_classes: int, settings: Training, rng: np.random.Generator
) -> Patch:
    change = draw_change(settings.augmentation, rng)
    # Drawn as if all of the scan were known, so that the patch may lie anywhere.
    anywhere = unlabelled(scan, num_classes, weight=1.0)
    centre = draw_centre(anywhere, settings.patch_size, settings.spacing_mm, rng)
    unknown = unlabelled(scan, num_classes)
    return cut_patch(unknown, centre, settings.patch_size, change, settings.spacing_mm)
