"""Training patches with structures of well-labelled scans pasted into them.

Exemplar-guided synthesis after exemplar learning (ELSNet; En and Guo, BMVC 2022); re-implementation
after the published description.

A paste takes image and labels together, with the weights that the labels have. Of an exemplar of
which one slice is painted, the slices beside it come along as image and stay unknown; of one whose
label was spread or joined by the segmenter, all comes along that has a weight. What a paste leaves
of its background keeps its labels, too: structures that nobody labelled there stay unknown and are
not taught as background.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from client.few_labels.exemplars import Exemplar, choose_exemplars
from client.few_labels.pasting import blend, filled, largest_overlap, soft_edge, texture_of
from client.learning.augmentation import Change, draw_change
from client.learning.batches import Batch, stack
from client.learning.examples import Example, Patch, cut_patch, draw_centre
from common.learning_settings import Augmentation, Synthesis, Training
from common.plan import FederationPlan

# Structures that share more than this of the smaller one are no anatomy.
MOST_OVERLAP = 0.1
# The structures of an exemplar are bent as one. Of the ranges of all other changes this share is
# each structure's own, and the rest is common.
OWN_SHARE = 0.25
UNCHANGED = Augmentation(rotation_degrees=(0, 0, 0), scale=0, log_gamma=0, gain=0, noise=0)


@dataclass(frozen=True)
class Paste:
    """One draw.

    Attributes:
        exemplar: its place among the exemplars.
        centre: in its voxels, of the patch that the structures are cut from.
        changes: of each structure, by label index.
        home: how the exemplar's own surroundings are changed, if they are the background; None: the
            background is the patch that came.
        texture_seed: of the texture that is pasted in the structures' place; None: they are pasted.
    """

    exemplar: int
    centre: tuple[float, ...]
    changes: Mapping[int, Change]
    home: Change | None = None
    texture_seed: int | None = None


def synthesise(
    batches: Iterator[Batch],
    examples: Iterable[Example],
    plan: FederationPlan,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    """The batches, with structures of the best of `examples` pasted into a share of their patches.

    The same batches, and nothing is drawn or loaded, if the plan's share is 0. Otherwise the
    patches that nothing is pasted into are those of a training without synthesis.
    What an old model makes of patches has to be added afterwards.
    """
    settings = plan.few_labels.synthesis
    if settings.share == 0:
        return batches
    exemplars = choose_exemplars(examples, settings.exemplars)
    return _paste_all(batches, exemplars, plan, rng) if exemplars else batches


def _paste_all(
    batches: Iterable[Batch],
    exemplars: Sequence[Exemplar],
    plan: FederationPlan,
    rng: np.random.Generator,
) -> Iterator[Batch]:
    settings = plan.few_labels.synthesis
    for batch in batches:
        patches = _unstack(batch)
        for place, patch in enumerate(patches):
            if rng.random() < settings.share:
                paste = draw_paste(exemplars, settings, plan.training, rng)
                exemplar = exemplars[paste.exemplar]
                patches[place] = apply_paste(patch, exemplar, paste, settings, plan.training)
        yield stack(patches, batch.replayed.tolist())


def draw_paste(
    exemplars: Sequence[Exemplar],
    settings: Synthesis,
    training: Training,
    rng: np.random.Generator,
) -> Paste:
    """Draws every number that `apply_paste` needs."""
    place = int(rng.integers(len(exemplars)))
    exemplar = exemplars[place]
    centre = draw_centre(exemplar.shape, training.patch_size, training.spacing_mm, rng)
    common = _ranges(settings, 1 - OWN_SHARE, training.augmentation)
    bent = common.model_copy(update={"elastic_voxels": settings.elastic_voxels})
    together, own = draw_change(bent, rng), _ranges(settings, OWN_SHARE, UNCHANGED)
    changes = {index: _both(together, draw_change(own, rng)) for index in exemplar.structures}
    is_home = rng.random() < settings.own_background
    home = draw_change(training.augmentation, rng) if is_home else None
    is_negative = rng.random() < settings.negative_share
    texture_seed = int(rng.integers(2**31)) if is_negative else None
    return Paste(place, centre, changes, home, texture_seed)


def apply_paste(
    patch: Patch, exemplar: Exemplar, paste: Paste, settings: Synthesis, training: Training
) -> Patch:
    """The patch with the exemplar's structures in it, pasted from the largest to the smallest.

    As it came, if structures that were changed on their own came to lie on each other.
    """
    outlines = {}
    for index, change in paste.changes.items():
        shape = _cut(exemplar.shape, paste, change, training)
        outlines[index] = shape.target[index] * shape.weight
    sizes = {index: float(outline.sum()) for index, outline in outlines.items()}
    ordered = sorted((i for i in sizes if sizes[i] > 0), key=lambda i: (-sizes[i], i))
    if largest_overlap([outlines[index] > 0.5 for index in ordered]) > MOST_OVERLAP:
        return patch
    if paste.home is not None:
        patch = _without_structures(exemplar, paste, paste.home, training)
    for index in ordered:
        source = _cut(exemplar.known, paste, paste.changes[index], training)
        if paste.texture_seed is not None:
            source = texture_of(source, paste.texture_seed)
        patch = blend(patch, source, soft_edge(outlines[index], settings.feather_voxels))
    return patch


def _without_structures(
    exemplar: Exemplar, paste: Paste, change: Change, training: Training
) -> Patch:
    """The exemplar's own surroundings, carried on to where its structures were."""
    known, shape = (_cut(one, paste, change, training) for one in (exemplar.known, exemplar.shape))
    hole = soft_edge(shape.weight, 1.0)
    return blend(known, filled(known, hole), hole)


def _cut(example: Example, paste: Paste, change: Change, training: Training) -> Patch:
    return cut_patch(example, paste.centre, training.patch_size, change, training.spacing_mm)


def _ranges(settings: Synthesis, share: float, colours: Augmentation) -> Augmentation:
    """This share of the ranges of synthesis, with the contrast and noise of other patches."""
    degrees = share * settings.rotation_degrees
    return Augmentation(
        rotation_degrees=(degrees, degrees, degrees),
        scale=share * settings.scale,
        log_gamma=colours.log_gamma,
        gain=share * settings.gain,
        noise=colours.noise,
        blur_voxels=share * settings.blur_voxels,
    )


def _both(common: Change, own: Change) -> Change:
    """Both turns, scales, gains and blurs; the rest is common."""
    degrees = [a + b for a, b in zip(common.degrees, own.degrees, strict=True)]
    scales = [a * b for a, b in zip(common.scales, own.scales, strict=True)]
    return replace(
        common,
        degrees=(degrees[0], degrees[1], degrees[2]),
        scales=(scales[0], scales[1], scales[2]),
        gain=common.gain * own.gain,
        blur_voxels=common.blur_voxels + own.blur_voxels,
    )


def _unstack(batch: Batch) -> list[Patch]:
    parts = (batch.image, batch.target, batch.weight, batch.painted, batch.known)
    return [Patch(*rows) for rows in zip(*parts, strict=True)]
