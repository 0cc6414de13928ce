"""Who says which slices are painted next in a simulated interactive course."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch.nn import Module

from client.annotation.select_slices import GOLDEN_STEP, where_slices_show
from client.learning.predict import predict_probabilities
from client.propagation.fuse import fuse
from client.propagation.residual import (
    PerSlice,
    Suggestion,
    against_network,
    between_networks,
    doubt,
    expected_foreground,
    rank,
    residual_per_slice,
    suggest,
)
from client.store.scans import load_scan, read_reference
from common.random_streams import generator
from common.scans import SliceRef
from simulations.interactive_pool import Pool, annotations_of, as_painted, by_scan, label_map

# full: every slice from the start. none: the first slices only. random: any unpainted slice of
# scans in turn. cohort: the same scans, more densely where painted slices showed something.
# residual: proxy against network and network against the one before. doubt: the network alone.
Guide = Literal["full", "residual", "random", "none", "cohort", "doubt"]


@dataclass(frozen=True)
class Networks:
    """The network that was just trained, and the one of the round before, if any."""

    newest: Module
    previous: Module | None
    device: torch.device


@dataclass(frozen=True)
class Asking:
    """How many slices a round asks for, what they must promise, how far apart they lie."""

    num_slices: int
    least_gain: float
    delta: int


@dataclass(frozen=True)
class Looked:
    """What a guide sees of one painted scan, and the truth to hold against it.

    Attributes:
        scan_id: the scan.
        painted: indexes of its painted slices.
        residual: voxels in dispute per slice.
        foreground_voxels: the size of the organ, as the network sees it.
        wrong_voxels: per slice, how many the network labels wrongly; no guide looks at it.
    """

    scan_id: str
    painted: tuple[int, ...]
    residual: PerSlice
    foreground_voxels: float
    wrong_voxels: PerSlice


def suggestions_of(looked: Sequence[Looked], axis: int, asking: Asking) -> list[Suggestion]:
    """The slices most worth painting next, one for each scan; none where all was enough."""
    found = [
        suggest(
            (one.scan_id, axis),
            one.residual,
            one.painted,
            one.foreground_voxels,
            delta=asking.delta,
        )
        for one in looked
    ]
    return rank(found, least_gain=asking.least_gain)[: asking.num_slices]


def look(
    guide: Guide, pool: Pool, painted: tuple[str, tuple[int, ...]], networks: Networks
) -> Looked:
    """What is in dispute in one painted scan."""
    scan_id, indexes = painted
    scan, training = load_scan(pool.store, scan_id), pool.plan.training

    def predict(network: Module) -> np.ndarray:
        return predict_probabilities(network, scan, training, device=networks.device).numpy()

    predicted = predict(networks.newest)
    if guide == "doubt":
        disputes = [doubt(predicted)]
    else:
        spread = label_map(pool, scan_id, indexes, networks.device)
        annotations = annotations_of(pool, scan_id, indexes)
        proxy = fuse(spread, annotations, predicted, pool.plan.propagation)
        disputes = [against_network(proxy, predicted)]
        if networks.previous is not None:
            disputes.append(between_networks(predicted, predict(networks.previous)))
    wrong = predicted.argmax(0) != read_reference(pool.store, scan_id, pool.plan)
    return Looked(
        scan_id,
        indexes,
        residual_per_slice(disputes, pool.axis),
        expected_foreground(predicted),
        residual_per_slice([wrong.astype(np.float32)], pool.axis),
    )


def unguided(guide: Guide, pool: Pool, refs: Sequence[SliceRef], num_slices: int) -> list[SliceRef]:
    """Slices of scans in a drawn order: `random` anywhere, `cohort` where slices show something.

    No slice twice; a scan with nothing left to paint is passed over.
    """
    rng = generator(pool.plan.seed, "interactive", "unguided", len(refs))
    done = by_scan(refs)
    shown = [as_painted(pool, ref) for ref in refs] if guide == "cohort" else []
    start = generator(pool.plan.seed, "interactive", "first position").random()
    chosen: list[SliceRef] = []
    for place in rng.permutation(len(pool.training)):
        if len(chosen) == num_slices:
            break
        scan_id = pool.training[place].scan_id
        depth = pool.depth(scan_id)
        left = np.setdiff1d(np.arange(depth), done.get(scan_id, ()))
        if len(left) == 0:
            continue
        share = float(rng.random())
        if guide == "cohort":
            golden = (start + (len(refs) + len(chosen)) * GOLDEN_STEP) % 1.0
            wanted = where_slices_show(golden, shown) * depth
            index = int(left[np.argmin(np.abs(left + 0.5 - wanted))])
        else:
            index = int(left[int(share * len(left))])
        chosen.append(SliceRef(scan_id, pool.axis, index))
    return chosen
