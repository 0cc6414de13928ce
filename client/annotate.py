"""What follows a submitted slice, for the page: its label in the volume, then the model's view."""

import os
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8

from client.annotation.page.previews import Advice, Made, Shown
from client.crop import Crop
from client.current_model import load_current_model
from client.label_engine import LabelMaker, label_maker_now, shows_slices, spread_new
from client.policy import read_policy
from client.propagation.spread_labels import FEWEST_SLICES, is_too_short
from client.quick_update import quick_update
from client.store.annotations import latest_annotations
from client.store.label_maps import load_label_map
from client.store.lock import among_others
from client.store.store import Store
from common.plan import FederationPlan
from common.scans import LabelMap

Volume = UInt8[np.ndarray, "i j k"]

NO_MODEL = (
    "No model yet: this is what you painted, carried through the scan. Whether another slice would "
    "help is known once this hospital has trained in a round."
)
TOO_SHORT = (
    f"Fewer than {FEWEST_SLICES} slices along the plane: nothing can be carried through this scan, "
    "and what you paint is used as it is."
)
NO_NETWORK = (
    "No correspondence network is learned yet: the label was carried without it, and is made again "
    "in the next round."
)


class HospitalLabeller:
    """The label engine and the current model of one hospital, as the page asks for them."""

    def __init__(self, store: Store, plan: FederationPlan, device: torch.device) -> None:
        """To be made in the thread that will use it: how many cores to use is set for that one."""
        self.store = store
        self.plan = plan
        self.device = device
        # One core stays free for the page. All of them, beside anything else that computes, wait
        # for each other: spreading took four times as long on two busy cores as on one.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))
        # The first optimiser of a process loads two seconds' worth of libraries.
        torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).zero_grad()

    def spread(self, scan_id: str) -> Made:
        """The label map that training uses, made if it is not there; shown as it is."""
        with among_others(self.store):
            maker, is_whole = self._maker()
            # A round makes labels with the network: without it they are not made again.
            if is_whole or not shows_slices(maker, scan_id):
                spread_new(maker, [scan_id])
            labels = load_label_map(self.store, scan_id, self.plan.federation, joined=False)
            if is_too_short(labels.weight.shape, latest_annotations(self.store, scan_id)):
                return Made(show(labels), TOO_SHORT)
        return Made(show(labels), "" if is_whole else NO_NETWORK)

    def update(self, scan_id: str, spread: Shown, pause: Callable[[], None]) -> Made:
        """What the current model makes of it; nothing while the hospital has none."""
        with among_others(self.store):
            model = load_current_model(self.store, self.plan)
            if model is None:
                _, is_whole = self._maker()
                return Made(None, NO_MODEL if is_whole else f"{NO_MODEL} {NO_NETWORK}")
            updated = quick_update(
                self.store,
                self.plan,
                model,
                (scan_id, spread.labels),
                device=self.device,
                pause=pause,
            )
        if updated.labels is None:
            return Made(None, updated.sentence)
        advice = None
        if updated.suggestion is not None:
            ref, gain = updated.suggestion.ref, updated.suggestion.expected_gain
            advice = Advice(ref.axis, ref.index, gain, updated.sentence)
        return Made(join(spread, updated.crop, updated.labels), updated.sentence, advice)

    def _maker(self) -> tuple[LabelMaker, bool]:
        tasks = read_policy(self.store.folder).allowed_tasks(self.plan.tasks)
        return label_maker_now(self.store, self.plan, self.device, tasks)


def show(labels: LabelMap) -> Shown:
    """The likeliest label and how likely it is, in a byte each."""
    return _shown("propagated", *_in_bytes(labels))


def join(spread: Shown, crop: Crop, labels: LabelMap) -> Shown:
    """What was spread, with the part that the model looked at in its place."""
    likeliest, confidence = spread.labels.copy(), spread.confidence.copy()
    likeliest[crop.box], confidence[crop.box] = _in_bytes(labels)
    return _shown("fused", likeliest, confidence)


def _in_bytes(labels: LabelMap) -> tuple[Volume, Volume]:
    index_of_channel = np.array([0, *labels.classes], dtype=np.uint8)
    shape = labels.weight.shape
    likeliest, confidence = np.empty(shape, np.uint8), np.empty(shape, np.uint8)
    # Slice by slice: as floats, a large volume would take the memory of ten.
    for place in range(shape[0]):
        soft = np.asarray(labels.soft[:, place], dtype=np.float32)
        likeliest[place] = index_of_channel[soft.argmax(0)]
        confidence[place] = np.rint(255 * np.clip(soft.max(0), 0, 1))
    return likeliest, confidence


def _shown(source: Literal["propagated", "fused"], likeliest: Volume, confidence: Volume) -> Shown:
    values, counts = np.unique(likeliest, return_counts=True)
    pairs = zip(values.tolist(), counts.tolist(), strict=True)
    return Shown(source, likeliest, confidence, {index: n for index, n in pairs if index > 0})
