"""The labels that a hospital trains on: painted slices, spread, then joined by the segmenter.

A label map is made from the painted slices alone when they are new. The segmenter joins once it has
earned it on slices that no hospital trained on, and again only when it got better there: a proxy
that a model makes from what it learned from that proxy would otherwise confirm its own mistakes.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import Module
from torch.nn.utils import parameters_to_vector

from client.learning.predict import predict_probabilities
from client.learning.round_clock import NO_LIMIT, RoundClock
from client.own_correspondence import learned_correspondence, own_correspondence
from client.propagation.fuse import fuse
from client.propagation.spread_labels import is_too_short, spread_labels
from client.store.complete_annotations import complete_annotations
from client.store.label_maps import (
    MadeFrom,
    adopt_label_map,
    drop_joined,
    find_label_map,
    load_label_map,
    save_label_map,
)
from client.store.scans import load_scan
from client.store.store import Store
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.networks.unet import load_arrays
from common.plan import FederationPlan, Propagation, Task
from common.scans import SliceAnnotation
from common.updates import CORRESPONDENCE, Arrays


@dataclass(frozen=True)
class LabelMaker:
    """What a round makes labels with.

    Attributes:
        store: the hospital's.
        plan: for whom.
        propagation: how; the plan's own, or what is left of it while no network is learned.
        network: the correspondence network, if it is among the candidates.
        device: where.
        tasks: those whose painted slices count, by name; all that the hospital allows.
    """

    store: Store
    plan: FederationPlan
    propagation: Propagation
    network: CorrespondenceNetwork | None
    device: torch.device
    tasks: frozenset[str]

    def painted_slices(self, scan_id: str) -> list[SliceAnnotation]:
        """What is known of a scan's painted slices: for its task, and for others of these."""
        return complete_annotations(self.store, scan_id, self.tasks)


def label_maker(
    store: Store,
    plan: FederationPlan,
    arrays: Arrays,
    device: torch.device,
    tasks: Sequence[Task] | None = None,
    clock: RoundClock = NO_LIMIT,
) -> LabelMaker:
    """With the federation's correspondence network if the plan trains one, else the hospital's.

    The hospital's own is learned from the scans of `tasks`; none: of all that the plan names.

    Raises:
        OutOfTimeError: it is not learned yet, and the clock was over.
    """
    network, names = None, _names(plan, tasks)
    if "correspondence" in plan.propagation.candidates:
        if plan.correspondence.rounds > 0:
            network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
            load_arrays(network, arrays, CORRESPONDENCE)
        else:
            network = own_correspondence(store, plan, device, tasks, clock)
    return LabelMaker(store, plan, plan.propagation, network, device, names)


def label_maker_now(
    store: Store, plan: FederationPlan, device: torch.device, tasks: Sequence[Task] | None = None
) -> tuple[LabelMaker, bool]:
    """With what the hospital has without learning anything; whether that is all the plan names.

    The federation's correspondence network comes with a round, and the hospital's own takes minutes
    to learn: while there is none, the other candidates carry the labels, or the patches alone.
    """
    wanted, names = plan.propagation.candidates, _names(plan, tasks)
    if "correspondence" not in wanted:
        return LabelMaker(store, plan, plan.propagation, None, device, names), True
    own = plan.correspondence.rounds == 0
    network = learned_correspondence(store, plan, tasks) if own else None
    if network is not None:
        return LabelMaker(store, plan, plan.propagation, network, device, names), True
    others = tuple(one for one in wanted if one != "correspondence") or ("patches",)
    settings = plan.propagation.model_copy(update={"candidates": others})
    return LabelMaker(store, plan, settings, None, device, names), False


def _names(plan: FederationPlan, tasks: Sequence[Task] | None) -> frozenset[str]:
    return frozenset(task.name for task in (plan.tasks if tasks is None else tasks))


def shows_slices(maker: LabelMaker, scan_id: str) -> bool:
    """Whether what was spread last, for this federation, has the painted slices as they are now."""
    store, federation = maker.store, maker.plan.federation
    if find_label_map(store, scan_id, federation, joined=False) is None:
        return False
    labels = load_label_map(store, scan_id, federation, joined=False)
    annotations = maker.painted_slices(scan_id)
    if set(labels.classes) != {index for one in annotations for index in one.looked_for}:
        return False
    index_of_channel = np.array([0, *labels.classes], dtype=np.uint8)
    return all(
        labels.expert[one.ref.selection].all()
        and (index_of_channel[labels.soft[:, *one.ref.selection].argmax(0)] == one.mask).all()
        for one in annotations
    )


def spread_new(maker: LabelMaker, scan_ids: Iterable[str]) -> None:
    """Spreads the painted slices of scans where that was done from something else, or never."""
    federation, weights = maker.plan.federation, b""
    if maker.network is not None:
        weights = parameters_to_vector(maker.network.parameters()).detach().cpu().numpy().tobytes()
    settings = maker.propagation.model_dump_json().encode()
    common_part = hashlib.sha256(settings + weights)
    for scan_id in scan_ids:
        annotations = maker.painted_slices(scan_id)
        digest = common_part.copy()
        for annotation in annotations:
            digest.update(repr((annotation.ref, annotation.looked_for)).encode())
            digest.update(annotation.mask.tobytes())
        made_from = MadeFrom(digest.hexdigest(), federation)
        if find_label_map(maker.store, scan_id, federation, joined=False) == made_from:
            continue
        if adopt_label_map(maker.store, scan_id, made_from):
            continue
        labels = spread_labels(
            load_scan(maker.store, scan_id),
            annotations,
            maker.propagation,
            maker.network,
            device=maker.device,
        )
        save_label_map(maker.store, scan_id, labels, made_from)


def join_segmenter(
    maker: LabelMaker,
    segmenter: Module,
    scan_ids: Iterable[str],
    round_number: int,
    held_back_dice: Mapping[str, float],
) -> int:
    """Makes the labels of scans again with the segmenter where it earned that; returns how many.

    Args:
        maker: what to make them with.
        segmenter: the incoming one.
        scan_ids: scans with a label map.
        round_number: this round; what it, or a later one, made in an earlier try is dropped first.
        held_back_dice: the federation's Dice of each class on slices that nobody trained on. A scan
            is judged by the mean over its classes that are taught by now; with one of them unknown
            it is left alone.
    """
    store, plan = maker.store, maker.plan
    settings = plan.propagation
    drop_joined(store, plan.federation, round_number)
    if settings.segmenter_from is None:
        return 0
    index_of = {label.name: label.index for label in plan.labels}
    dice = {index_of[name]: value for name, value in held_back_dice.items() if name in index_of}
    untaught = set(plan.untaught_indexes(round_number))
    number = 0
    for scan_id in scan_ids:
        current = find_label_map(store, scan_id, plan.federation)
        assert current is not None  # `spread_new` has been here
        annotations = maker.painted_slices(scan_id)
        classes = {index for one in annotations for index in one.looked_for} - untaught
        if not classes <= dice.keys():
            continue
        score = sum(dice[index] for index in sorted(classes)) / len(classes)
        least = current.score + settings.refresh_gain if current.round else 0.0
        if score < max(least, settings.segmenter_from):
            continue
        scan = load_scan(store, scan_id)
        if is_too_short(scan.geometry.shape, annotations):
            continue  # used with its painted slices alone
        predicted = predict_probabilities(segmenter, scan, plan.training, device=maker.device)
        spread = load_label_map(store, scan_id, plan.federation, joined=False)
        labels = fuse(spread, annotations, predicted.numpy(), settings)
        joined = replace(current, round=round_number, score=score)
        save_label_map(store, scan_id, labels, joined)
        number += 1
    return number
