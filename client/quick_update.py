"""The current model's view of a scan right after a slice of it was painted.

A few training steps on the scan and on replayed ones, on a copy of the weights that nobody keeps:
the federation's rounds go on from what they sent. The prediction is joined with the painted slices
to look at, and held against them to say where another slice would settle most.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from jaxtyping import UInt8
from monai.networks.nets import UNet

from client.crop import Crop, around
from client.current_model import CurrentModel
from client.learning.batches import Batch, draw_batches
from client.learning.examples import Example
from client.learning.leave_out import leave_out
from client.learning.predict import predict_probabilities
from client.learning.train import learning_rate_at
from client.learning.train_models import train_segmenter
from client.propagation.fuse import fuse
from client.propagation.residual import (
    Probabilities,
    Suggestion,
    advise,
    against_network,
    between_networks,
    expected_foreground,
    rank,
    residual_per_slice,
    suggest,
)
from client.store.complete_annotations import complete_annotations
from client.store.label_maps import find_label_map, load_label_map
from client.store.scans import find_scan, load_scan
from client.store.store import Store
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.random_streams import generator
from common.scans import Geometry, LabelMap, SliceAnnotation, SliceRef

# Somebody waits: as many steps as there is time for, on a slow machine or large patches fewer.
STEPS, MOST_TRAINING_S = 8, 4.0
REPLAYED_SCANS = 4
# As in the simulated courses (docs/benchmarks.md): a painted slice settles two on either side, and
# one that promises less than half a point of Dice is not worth a clinician's time.
SETTLED_SLICES, LEAST_GAIN = 2, 0.005
# What is looked at while somebody waits: probabilities on the scan's grid, of which joining and
# comparing needs ten volumes of 4 bytes each, and voxels on the grid that the network predicts, of
# which a core does half a million in a second.
MOST_NUMBERS, MOST_PREDICTED_VOXELS = 50_000_000, 4_000_000
# Where a scan is larger than that: as much around what is labelled as there is room for, in halves
# of a training patch.
MARGINS = (16, 8, 4, 2, 1)

TOO_LARGE = (
    "What is labelled spans too many voxels for the model to look at while you wait: this is what "
    "you painted, carried through the scan."
)

Pause = Callable[[], None]


@dataclass(frozen=True)
class Updated:
    """What the model makes of a scan now, and which slice it would learn most from.

    Attributes:
        crop: the part of the scan that was looked at; all of it unless it is large.
        labels: of that part; None where even that is too large.
        suggestion: a slice of the whole scan; None if another one promises little.
        sentence: for whoever paints.
    """

    crop: Crop
    labels: LabelMap | None
    suggestion: Suggestion | None
    sentence: str


def quick_update(
    store: Store,
    plan: FederationPlan,
    model: CurrentModel,
    spread: tuple[str, UInt8[np.ndarray, "i j k"]],
    *,
    device: torch.device,
    pause: Pause,
) -> Updated:
    """Trains a copy of the model for a moment, predicts the scan, joins and compares.

    Args:
        store: the hospital's; the scan must have a label map of its painted slices.
        plan: the federation's.
        model: what the hospital has now; not changed.
        spread: the scan_id, and the likeliest labels of that label map.
        device: where to compute.
        pause: called between steps; what it raises ends the update.
    """
    scan_id, spread_labels = spread
    crop = _choose_crop(plan, load_scan(store, scan_id).geometry, spread_labels)
    if crop is None:
        return Updated(Crop((0, 0, 0), (0, 0, 0)), None, None, TOO_LARGE)
    scan = crop.of_scan(load_scan(store, scan_id))
    annotations = complete_annotations(store, scan_id, {task.name for task in plan.tasks})

    def load(number: int) -> UNet:
        network = build_networks(plan, number)[SEGMENTER]
        load_arrays(network, model.arrays, SEGMENTER)
        return network

    def predict(network: UNet) -> Probabilities:
        pause()
        return predict_probabilities(network, scan, plan.training, device=device).numpy()

    before = predict(load(model.round))
    # Of a task that the model has not met yet, it learns a little now.
    task = find_scan(store, scan_id).task
    ends = plan.last_round_of_stage(plan.tasks.index(plan.task_named(task)))
    number = max(model.round, ends)
    network = load(number)
    train_segmenter(
        network,
        _batches(store, plan, model, scan_id, plan.untaught_indexes(number), pause),
        plan.training,
        learning_rate=learning_rate_at(plan.training, plan.share_of_stage_done(model.round)),
        device=device,
    )
    after = predict(network)
    pause()
    whole = load_label_map(store, scan_id, plan.federation, joined=False)
    propagated, inside = crop.of_labels(whole), crop.of_annotations(annotations)
    labels = fuse(propagated, inside, after, plan.propagation)
    suggestion = _suggest(crop, annotations, labels, (before, after))
    ranked = rank([suggestion], least_gain=LEAST_GAIN)
    return Updated(crop, labels, ranked[0] if ranked else None, advise(ranked, len(annotations)))


def _suggest(
    crop: Crop,
    annotations: Sequence[SliceAnnotation],
    labels: LabelMap,
    predicted: tuple[Probabilities, Probabilities],
) -> Suggestion:
    """The slice of the scan where painting would settle most; `predicted` before and after."""
    before, after = predicted
    scan_id, axis = annotations[0].ref.scan_id, annotations[0].ref.axis
    start = crop.first[axis]
    disputes = [against_network(labels, after), between_networks(after, before)]
    found = suggest(
        (scan_id, axis),
        residual_per_slice(disputes, axis),
        [one.ref.index - start for one in annotations if one.ref.axis == axis],
        expected_foreground(after),
        delta=SETTLED_SLICES,
    )
    return replace(found, ref=SliceRef(scan_id, axis, found.ref.index + start))


def _choose_crop(
    plan: FederationPlan, geometry: Geometry, labels: UInt8[np.ndarray, "i j k"]
) -> Crop | None:
    """The whole scan, or as much around what is labelled as there is time for; None: too much.

    Where a painted slice is the tip of an organ, most of the organ is not labelled yet: a scan that
    is small enough is looked at whole.
    """
    wanted_mm = plan.training.spacing_mm or geometry.spacing_mm
    coarser = [wanted / own for wanted, own in zip(wanted_mm, geometry.spacing_mm, strict=True)]
    halves = [size * r / 2 for size, r in zip(plan.training.patch_size, coarser, strict=True)]
    whole = Crop((0, 0, 0), geometry.shape)
    for crop in (whole, *(around(labels, [math.ceil(n * h) for h in halves]) for n in MARGINS)):
        voxels = math.prod(crop.shape)
        predicted = voxels / math.prod(coarser)
        if voxels * plan.num_classes <= MOST_NUMBERS and predicted <= MOST_PREDICTED_VOXELS:
            return crop
    return None


def _batches(
    store: Store,
    plan: FederationPlan,
    model: CurrentModel,
    scan_id: str,
    untaught: Collection[int],
    pause: Pause,
) -> Iterator[Batch]:
    """Of the scan, and of some that are remembered; the plan says how many patches are replayed."""
    rng = generator(plan.seed, store.hospital, "quick update", model.round, scan_id)
    remembered = [
        entry.scan_id
        for entry in model.memory.entries
        if entry.scan_id != scan_id and find_label_map(store, entry.scan_id, plan.federation)
    ]
    replayed = [remembered[place] for place in rng.permutation(len(remembered))[:REPLAYED_SCANS]]

    @cache
    def load(one: str) -> Example:
        labels = leave_out(load_label_map(store, one, plan.federation), untaught)
        return Example(load_scan(store, one), labels, plan.num_classes)

    until = time.monotonic() + MOST_TRAINING_S
    for batch in draw_batches([scan_id], replayed, load, plan, steps=STEPS, rng=rng):
        pause()
        yield batch
        if time.monotonic() > until:
            return
