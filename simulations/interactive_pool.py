"""The scans of a simulated interactive course, the oracle that paints them, and the effort."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from client.annotation.select_slices import Painted, select_slices
from client.learning.examples import Example
from client.propagation.spread_labels import spread_labels
from client.store.scans import CatalogScan, load_scan, read_reference
from client.store.store import Store
from common.errors import SettingsError
from common.plan import FederationPlan
from common.random_streams import generator, stream_seed
from common.scans import LabelMap, SliceAnnotation, SliceRef
from simulations.annotator import SimulatedAnnotator
from simulations.progress import Progress
from simulations.propagation_scans import load_labelled_scans
from simulations.scenario import AnnotatorSettings


@dataclass(frozen=True)
class Effort:
    """What painting took.

    Attributes:
        slices: painted slices, empty ones included.
        showing: how many of them show a structure.
        of_full: `slices` as a share of all slices of the scans that show a structure.
        minutes: at the brush.
    """

    slices: int
    showing: int
    of_full: float
    minutes: float


@dataclass(frozen=True)
class Pool:
    """One hospital's scans to paint and train on, and the scans to test on; all with full labels.

    Attributes:
        store: where all of them lie.
        plan: labels, network, training; the slices of its first task's plane are painted.
        training: in the order in which they came.
        test: nobody trains on them.
        label_maps: made so far, by scan_id and painted indexes.
    """

    store: Store
    plan: FederationPlan
    training: tuple[CatalogScan, ...]
    test: tuple[CatalogScan, ...]
    label_maps: dict[tuple[str, tuple[int, ...]], LabelMap] = field(default_factory=dict)

    @property
    def axis(self) -> int:
        """The array axis whose slices are painted."""
        return self.plan.tasks[0].axis

    def depth(self, scan_id: str) -> int:
        """The number of slices of a training scan."""
        shape = {row.scan_id: row.geometry.shape for row in self.training}[scan_id]
        return shape[self.axis]


def gather_pool(
    data: Path, out: Path, plan: FederationPlan, *, num_scans: int, progress: Progress
) -> Pool:
    """The scans of a labelled folder whose cases.csv says which to train and to test on.

    Args:
        data: a labelled folder: MSD, nnU-Net v2 or plain.
        out: the ingested scans are kept here.
        plan: its seed draws the scans.
        num_scans: how many scans to train on; 0: all.
        progress: told how far it is.

    Raises:
        SettingsError: the folder says of no scan that it is to train on.
    """
    scans = load_labelled_scans(
        data, out, num_scans=0, seed=0, with_training=True, progress=progress
    )
    if scans.training == scans.scored:
        raise SettingsError(
            f"{data}: expected a cases.csv with a column `split` that names scans to train and to "
            "test on"
        )
    order = generator(plan.seed, "interactive scans").permutation(len(scans.training))
    drawn = tuple(scans.training[place] for place in order[: num_scans or None])
    # Pinned, so that guides differ in nothing else: the painted slices alone train the segmenter,
    # and what they are spread to by patches, which needs no training, is the guide's proxy.
    changed = {"candidates": ("patches",), "reach_slices": 0}
    propagation = plan.propagation.model_copy(update=changed)
    pinned = plan.model_copy(update={"propagation": propagation})
    return Pool(scans.store, pinned, drawn, scans.scored)


def paint(pool: Pool, ref: SliceRef) -> SliceAnnotation:
    """The slice as the oracle paints it; it looks for all of the plan's labels."""
    oracle = SimulatedAnnotator(pool.plan, AnnotatorSettings())
    return oracle.paint(pool.store, ref, tuple(label.index for label in pool.plan.labels))


def first_slices(pool: Pool) -> list[SliceRef]:
    """One slice of each scan by the choice `cohort`, scan after scan."""
    refs: list[SliceRef] = []
    painted: list[Painted] = []
    seed = stream_seed(pool.plan.seed, "interactive", "first slices")
    for place, row in enumerate(pool.training):
        image = np.asarray(load_scan(pool.store, row.scan_id).image)
        scan = (row.scan_id, pool.axis)
        ref = select_slices(image, scan, "cohort", place=place, seed=seed, painted=painted)[0]
        refs.append(ref)
        painted.append(as_painted(pool, ref))
    return refs


def every_slice(pool: Pool) -> list[SliceRef]:
    """Full labels."""
    return [
        SliceRef(row.scan_id, pool.axis, index)
        for row in pool.training
        for index in range(pool.depth(row.scan_id))
    ]


def as_painted(pool: Pool, ref: SliceRef) -> Painted:
    """Where a slice lay and whether it showed anything."""
    position = (ref.index + 0.5) / pool.depth(ref.scan_id)
    return Painted(position, bool(paint(pool, ref).mask.any()))


def by_scan(refs: Iterable[SliceRef]) -> dict[str, tuple[int, ...]]:
    """The painted indexes of each scan, ascending."""
    found: dict[str, list[int]] = {}
    for ref in refs:
        found.setdefault(ref.scan_id, []).append(ref.index)
    return {scan_id: tuple(sorted(indexes)) for scan_id, indexes in found.items()}


def annotations_of(pool: Pool, scan_id: str, indexes: Sequence[int]) -> list[SliceAnnotation]:
    """The painted slices of a scan."""
    return [paint(pool, SliceRef(scan_id, pool.axis, index)) for index in indexes]


def label_map(pool: Pool, scan_id: str, indexes: tuple[int, ...], device: torch.device) -> LabelMap:
    """The painted slices spread through their scan; made once."""
    key = (scan_id, indexes)
    if key not in pool.label_maps:
        pool.label_maps[key] = spread_labels(
            load_scan(pool.store, scan_id),
            annotations_of(pool, scan_id, indexes),
            pool.plan.propagation,
            device=device,
        )
    return pool.label_maps[key]


def examples(pool: Pool, refs: Sequence[SliceRef], device: torch.device) -> dict[str, Example]:
    """What the painted scans offer to training, by scan_id."""
    return {
        scan_id: Example(
            load_scan(pool.store, scan_id),
            label_map(pool, scan_id, indexes, device),
            pool.plan.num_classes,
        )
        for scan_id, indexes in by_scan(refs).items()
    }


def measure_effort(pool: Pool, refs: Sequence[SliceRef]) -> Effort:
    """What painting these slices took."""
    showing = _showing(pool)
    painted = by_scan(refs)
    num_showing = sum(int(showing[scan_id][list(i)].sum()) for scan_id, i in painted.items())
    all_showing = sum(int(found.sum()) for found in showing.values())
    seconds = len(refs) * AnnotatorSettings().seconds_per_slice
    return Effort(len(refs), num_showing, len(refs) / max(all_showing, 1), seconds / 60)


def _showing(pool: Pool) -> dict[str, np.ndarray]:
    """Whether each slice of each training scan shows a structure."""
    plane = tuple(axis for axis in range(3) if axis != pool.axis)
    found = {}
    for row in pool.training:
        labels = read_reference(pool.store, row.scan_id, pool.plan)
        found[row.scan_id] = np.asarray((labels > 0).any(plane))
    return found
