"""Clinicians of a simulation: one reads the truth, one draws with a wandering hand."""

from collections.abc import Mapping, Set
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from client.store.scans import find_scan, read_reference
from client.store.store import Store
from common.plan import FederationPlan
from common.random_streams import generator
from common.scans import SliceAnnotation, SliceRef
from simulations.scenario import AnnotatorSettings


@dataclass(frozen=True)
class SimulatedAnnotator:
    """Paints the asked slice from the full reference label, as exactly as the settings say.

    For a task and a case that `classes_painted` names it looks for these classes only.
    """

    plan: FederationPlan
    settings: AnnotatorSettings
    classes_painted: Mapping[tuple[str, str], Set[str]] = field(default_factory=dict)

    def paint(self, store: Store, ref: SliceRef, looked_for: tuple[int, ...]) -> SliceAnnotation:
        """The slice as this annotator sees it; classes not looked for are not painted."""
        scan = find_scan(store, ref.scan_id)
        looked_for = self._among(looked_for, (scan.task, scan.case))
        truth = np.asarray(read_reference(store, ref.scan_id, self.plan))[ref.selection]
        mask = np.where(np.isin(truth, looked_for), truth, 0).astype(np.uint8)
        if self.settings.kind == "jittered":
            rng = generator(self.plan.seed, "jitter", ref.scan_id, ref.axis, ref.index)
            mask = jitter_boundaries(mask, self.settings.jitter_voxels, rng)
        return SliceAnnotation(
            ref, mask, looked_for, self.settings.kind, self.settings.seconds_per_slice
        )

    def _among(self, indexes: tuple[int, ...], served: tuple[str, str]) -> tuple[int, ...]:
        if served not in self.classes_painted:
            return indexes
        names = {label.index: label.name for label in self.plan.labels}
        return tuple(index for index in indexes if names[index] in self.classes_painted[served])


def jitter_boundaries(
    mask: UInt8[np.ndarray, "rows columns"], jitter_voxels: float, rng: np.random.Generator
) -> UInt8[np.ndarray, "rows columns"]:
    """The mask moved by a smooth random field whose typical length is `jitter_voxels`."""
    fields = [ndimage.gaussian_filter(rng.standard_normal(mask.shape), 3) for _ in range(2)]
    spread = max(float(np.std(fields)), 1e-9)
    rows, columns = np.indices(mask.shape)
    moved = [
        axis + jitter_voxels * field / spread
        for axis, field in zip((rows, columns), fields, strict=True)
    ]
    drawn = ndimage.map_coordinates(mask, moved, order=0, mode="nearest")
    result: UInt8[np.ndarray, "rows columns"] = drawn.astype(np.uint8)
    return result
