"""The scans of a comparison of propagators: which are scored, which may be learnt from."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import UInt8

from client.store.arrays import load_array
from client.store.ingest import ingest_cases, read_case
from client.store.layouts import Dataset, find_cases
from client.store.scans import CatalogScan, list_scans, load_scan
from client.store.store import Store, create_store
from common.errors import BadScanError, SettingsError
from common.plan import Task
from common.random_streams import generator
from common.scans import AXIS_OF_PLANE, Geometry, Plane, Scan
from simulations.generic import CT_BELOW, LOOKED_AT
from simulations.progress import Progress, counted
from simulations.sites import read_columns

PlaneChoice = Literal["auto", "sagittal", "coronal", "axial"]
WINDOW_HU = (-160.0, 240.0)
NEARLY = 1.1  # two lengths or spacings within a tenth are the same
SPLIT = "split"  # the column of cases.csv, with the values `train` and `test`


@dataclass(frozen=True)
class LabelledScans:
    """What a comparison works on.

    Attributes:
        store: where the scans lie.
        scored: scans with a full label, in the order in which they were drawn.
        training: what methods may learn from, without labels.
        names: label value to name.
        notes: what a reader of the table has to know.
    """

    store: Store
    scored: tuple[CatalogScan, ...]
    training: tuple[CatalogScan, ...]
    names: dict[int, str]
    notes: tuple[str, ...]

    def scan(self, row: CatalogScan) -> Scan:
        """The normalised volume, memory-mapped."""
        return load_scan(self.store, row.scan_id)

    def reference(self, row: CatalogScan) -> UInt8[np.ndarray, "i j k"]:
        """The full label, in the data set's own values."""
        assert row.reference_key is not None  # only labelled scans are scored
        return np.array(load_array(self.store, row.reference_key), dtype=np.uint8)


def load_labelled_scans(
    data: Path, out: Path, *, num_scans: int, seed: int, with_training: bool, progress: Progress
) -> LabelledScans:
    """Ingests a labelled folder into a store under `out`; what is there already is kept.

    Scored are the cases whose `split` is `test` in cases.csv, or all where there is no such column;
    of these the first `num_scans` in an order drawn from the seed, or all if 0. Learnt from are
    those whose `split` is `train`, or else the scored ones.

    Raises:
        SettingsError: the folder has no usable labelled scan to score.
        StoreError: `out` holds the scans of another folder.
    """
    dataset = find_cases(data)
    columns = read_columns(dataset)
    names = _names_to_score(dataset, columns)
    order = generator(seed, "scored scans").permutation(len(names))
    drawn = [names[place] for place in order[: num_scans or None]]
    has_split = any(SPLIT in row for row in columns.values())
    to_learn = [c.name for c in dataset.cases if columns.get(c.name, {}).get(SPLIT) == "train"]
    to_learn = to_learn if with_training and has_split else []
    digest = hashlib.sha256(str(dataset.folder.resolve()).encode()).hexdigest()[:12]
    store = create_store(out / "scans", f"data-{digest}")
    reasons = _ingest(store, dataset, [*drawn, *to_learn], progress)
    by_name = {row.case: row for row in list_scans(store)}
    scored = tuple(by_name[n] for n in drawn if n in by_name and by_name[n].reference_key)
    if not scored:
        raise SettingsError(f"{data}: none of {len(drawn)} labelled cases can be used: {reasons}")
    learnt = tuple(by_name[n] for n in to_learn if n in by_name and by_name[n] not in scored)
    notes = [f"left out, cannot be used: {', '.join(reasons)}"] if reasons else []
    doubles = [n for n in dict.fromkeys((*drawn, *to_learn)) if n not in by_name | reasons]
    if doubles:
        notes.append(f"left out, the same scan under another name: {', '.join(doubles)}")
    if with_training and not learnt:
        notes.append(
            "learned methods trained on the scored scans themselves, without their labels; those "
            "with a segmenter in two folds, each on one painted slice of the scans of the other"
        )
    return LabelledScans(
        store, scored, learnt or scored, _names_of_labels(dataset, scored), tuple(notes)
    )


def choose_plane(choice: PlaneChoice, geometries: Sequence[Geometry]) -> tuple[Plane, str]:
    """The plane whose slices are painted, and why.

    `auto` needs no label: slices lie across the coarsest voxel axis (median spacing), where each is
    sharp and there are few. Where spacings are the same, they lie across the axis with the fewest
    voxels: its slices are the largest, and the painted one is nearest to all others. Spacings and
    lengths count as the same within a tenth; then the first of sagittal, coronal, axial is taken,
    so that a few more or fewer scans do not turn the choice.
    """
    if choice != "auto":
        return choice, "asked for"
    spacing = np.median([geometry.spacing_mm for geometry in geometries], axis=0)
    length = np.median([geometry.shape for geometry in geometries], axis=0)
    coarsest = [axis for axis in range(3) if spacing[axis] >= spacing.max() / NEARLY]
    fewest = min(length[coarsest])
    axis = next(axis for axis in coarsest if length[axis] <= fewest * NEARLY)
    plane = next(name for name, number in AXIS_OF_PLANE.items() if number == axis)
    if len(coarsest) == 1:
        return plane, f"chosen: voxels are coarsest across it, {spacing[axis]:.2f} mm"
    return plane, f"chosen: equal spacing, few slices across it, {length[axis]:.0f}"


def _names_to_score(dataset: Dataset, columns: dict[str, dict[str, str]]) -> list[str]:
    labelled = [case.name for case in dataset.cases if case.label is not None]
    if not labelled:
        raise SettingsError(
            f"{dataset.folder}: none of its {len(dataset.cases)} cases has a label; the comparison "
            "scores against full labels: give a labelled folder (labelsTr/ or labels/)"
        )
    splits = {columns[name][SPLIT] for name in labelled if SPLIT in columns.get(name, {})}
    if not splits:
        return labelled
    test = [name for name in labelled if columns.get(name, {}).get(SPLIT) == "test"]
    if not test:
        raise SettingsError(
            f"{dataset.folder}: cases.csv has a column {SPLIT!r} with the values {sorted(splits)} "
            "for the labelled cases; expected some `test`: mend the column or take it out"
        )
    return test


def _ingest(
    store: Store, dataset: Dataset, names: Sequence[str], progress: Progress
) -> dict[str, str]:
    """Ingests the named cases that are not there yet; why some could not be, by name."""
    wanted = set(names) - {row.case for row in list_scans(store)}
    first = {name: place for place, name in enumerate(names)}
    cases = sorted((c for c in dataset.cases if c.name in wanted), key=lambda c: first[c.name])
    if not cases:
        return {}
    modality = "CT" if _is_ct(dataset) else "MR"
    values: dict[str, object] = {
        "name": "propagation",
        "modality": modality,
        "window_hu": WINDOW_HU if modality == "CT" else None,
        # None of these bears on a comparison, which goes by the labels' values.
        "classes": ["unnamed"],
        "plane": "axial",
        "rounds": 1,
    }
    on_case = counted(progress, "read scans", len(cases))
    report = ingest_cases(store, dataset, cases, task=Task.model_validate(values), on_case=on_case)
    return dict(report.quarantined)


def _is_ct(dataset: Dataset) -> bool:
    """Whether any of the first scans has air in Hounsfield units; the same answer every time."""
    for case in dataset.cases[:LOOKED_AT]:
        try:
            if float(read_case(dataset, case).image.min()) <= CT_BELOW:
                return True
        except BadScanError:
            continue
    return False


def _names_of_labels(dataset: Dataset, scored: Sequence[CatalogScan]) -> dict[int, str]:
    """Names of the values that occur; where two have one name, the value tells them apart."""
    found = sorted({value for row in scored for value in row.label_voxels})
    names = {value: dataset.labels.get(value) or f"label-{value}" for value in found}
    times = Counter(names.values())
    return {value: f"{name} {value}" if times[name] > 1 else name for value, name in names.items()}
