"""OneSlice's own ways of spreading a painted slice, as rows of the comparison."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import torch

from client.learning.device import choose_device
from client.own_correspondence import PARTS
from client.propagation.fuse import fuse
from client.propagation.learn_correspondence import learn_correspondence
from client.propagation.spread_labels import spread_labels
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.plan import Candidate, Propagation
from common.random_streams import generator
from common.scans import LabelMap, Scan, SliceAnnotation
from simulations.cohort_network import CohortNetwork, fit_cohort_network
from simulations.comparison_plan import comparison_plan
from simulations.propagator import Propagator, SoftLabels, TrainingSet

ALL: tuple[Candidate, ...] = ("patches", "correspondence", "registration")
COHORT_STEPS = 1200
FOLDS = 2


def prepare_oneslice(*candidates: Candidate) -> Callable[[TrainingSet], Propagator]:
    """A propagator by these candidates, from the scan's own slice alone."""

    def prepare(training: TrainingSet) -> Propagator:
        spread = _spreader(training, candidates)
        return lambda scan, annotation: _soft_labels(spread(scan, annotation), annotation)

    return prepare


def prepare_fused(*candidates: Candidate) -> Callable[[TrainingSet], Propagator]:
    """The same, times a segmenter fitted on one slice of each of the other scans."""

    def prepare(training: TrainingSet) -> Propagator:
        spread = _spreader(training, candidates)
        segmenter_for = _fit_segmenters(training)

        def propagate(scan: Scan, annotation: SliceAnnotation) -> SoftLabels:
            predicted = segmenter_for(scan).predict(scan)
            labels = fuse(
                spread(scan, annotation), [numbered(annotation)], predicted, Propagation()
            )
            return _soft_labels(labels, annotation)

        return propagate

    return prepare


def prepare_segmenter_alone(training: TrainingSet) -> Propagator:
    """The segmenter without the scan's own slice: what the cohort is worth by itself."""
    segmenter_for = _fit_segmenters(training)

    def propagate(scan: Scan, annotation: SliceAnnotation) -> SoftLabels:
        return SoftLabels(annotation.looked_for, segmenter_for(scan).predict(scan))

    return propagate


def numbered(annotation: SliceAnnotation) -> SliceAnnotation:
    """The annotation with labels 1 to n in place of the data set's own values."""
    wanted = (0, *annotation.looked_for)
    lookup = np.zeros(256, dtype=np.uint8)
    lookup[list(wanted)] = range(len(wanted))
    classes = tuple(range(1, len(wanted)))
    return replace(annotation, mask=lookup[annotation.mask], looked_for=classes)


def _soft_labels(labels: LabelMap, annotation: SliceAnnotation) -> SoftLabels:
    return SoftLabels(annotation.looked_for, labels.soft)


def _spreader(
    training: TrainingSet, candidates: Sequence[Candidate]
) -> Callable[[Scan, SliceAnnotation], LabelMap]:
    settings = Propagation(candidates=tuple(candidates))
    device = choose_device("auto")
    network = _learn_network(training, device) if "correspondence" in candidates else None

    def spread(scan: Scan, annotation: SliceAnnotation) -> LabelMap:
        return spread_labels(scan, [numbered(annotation)], settings, network, device=device)

    return spread


@cache
def _learn_network(training: TrainingSet, device: torch.device) -> CorrespondenceNetwork:
    """Once for all methods of a seed; the first of them pays for the training."""
    plan = comparison_plan(training.scans, 1, training.seed)
    if training.steps is not None:
        settings = plan.correspondence.model_copy(update={"steps": training.steps})
        plan = plan.model_copy(update={"correspondence": settings})
    network = build_correspondence(plan.channels, plan.correspondence, training.seed)
    for part in range(1, PARTS + 1):
        learn_correspondence(
            network,
            [(scan, training.axis) for scan in training.scans],
            plan,
            part=(part, PARTS),
            rng=generator(training.seed, "correspondence", part),
            device=device,
        )
    return network


@cache
def _fit_segmenters(training: TrainingSet) -> Callable[[Scan], CohortNetwork]:
    """One segmenter, or where scored scans are learned from one for each fold, without that fold.

    So no scan is ever labelled by a network that saw a slice of it.
    """
    device, steps = choose_device("auto"), training.steps or COHORT_STEPS
    pairs = list(zip(training.scans, map(numbered, training.annotations), strict=True))

    def fit(chosen: Sequence[tuple[Scan, SliceAnnotation]]) -> CohortNetwork:
        scans, annotations = zip(*chosen, strict=True)
        return fit_cohort_network(
            scans, annotations, steps=steps, seed=training.seed, device=device
        )

    if not training.scored_too:
        fitted = fit(pairs)
        return lambda scan: fitted
    fold_of = {scan.scan_id: place % FOLDS for place, (scan, _) in enumerate(pairs)}
    without = [
        fit([pair for pair in pairs if fold_of[pair[0].scan_id] != fold]) for fold in range(FOLDS)
    ]
    return lambda scan: without[fold_of[scan.scan_id]]
