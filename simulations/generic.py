"""A scenario for any labelled folder: four hospitals, three stages, sizes taken from the scans."""

from pathlib import Path

import numpy as np

from client.store.ingest import ReadCase, read_case
from client.store.layouts import Case, Dataset, find_cases
from common.errors import BadScanError, SettingsError
from common.plan import FederationPlan
from common.settings_file import parse_settings
from simulations.scenario import Deal, Scenario, Split, read_scenario

GENERIC = "generic"
SITES = ("hospital-a", "hospital-b", "hospital-c", "hospital-d")
LOOKED_AT = 12
# About what one step of two seconds on two cores can hold, at batches of four.
LARGEST_PATCH_VOXELS = 65_536


def choose_scenario(name: str, data: Path | None) -> Scenario:
    """The named scenario, or `generic` for the given folder.

    Raises:
        SettingsError: there is no such scenario, or `generic` came without a folder.
    """
    if name != GENERIC:
        return read_scenario(name)
    if data is None:
        raise SettingsError("the generic scenario is made for a folder: give --data FOLDER")
    return generic_scenario(find_cases(data))


def generic_scenario(dataset: Dataset) -> Scenario:
    """Three equal, disjoint stages dealt to four hospitals; a fifth of the scans to test on.

    The labels are those of the data set's dictionary, or those found in its first scans, in the
    order of their values. The patch is about the median scan, cut to 65,536 voxels; the
    plane is the one across the coarsest axis, where slices are cheapest to paint.

    Raises:
        SettingsError: none of the first scans can be read with its label, or there are too few.
    """
    reads = [read for case in dataset.cases[:LOOKED_AT] if (read := _try_read(dataset, case))]
    if not reads:
        raise SettingsError(
            f"{dataset.folder}: none of its first {LOOKED_AT} cases has a readable scan and label"
        )
    if len(dataset.cases) < 2 * len(SITES):
        raise SettingsError(
            f"{dataset.folder} has {len(dataset.cases)} cases; four hospitals and a test split "
            f"need at least {2 * len(SITES)}"
        )
    values = {v for _, label in reads for v in np.unique(label).tolist() if v}
    names = dataset.labels or {value: f"label-{value}" for value in sorted(values)}
    labels = _labels(names, named=bool(dataset.labels))
    size = np.median([read.geometry.shape for read, _ in reads], axis=0)
    spacing = np.median([read.geometry.spacing_mm for read, _ in reads], axis=0)
    plane = ("sagittal", "coronal", "axial")[int(np.argmax(spacing))]
    is_ct = min(float(read.image.min()) for read, _ in reads) <= CT_BELOW
    task = {
        "classes": [label["name"] for label in labels],
        "modality": "CT" if is_ct else "MR",
        "plane": plane,
        "rounds": 4,
        **({"window_hu": [-160.0, 240.0]} if is_ct else {}),
    }
    tasks = [{"name": f"stage-{number}", **task} for number in (1, 2, 3)]
    patch, strides = patch_and_strides(size)
    plan = parse_settings(
        FederationPlan,
        {
            "name": GENERIC,
            "labels": labels,
            "tasks": tasks,
            "channels": dataset.channels,
            "segmenter": {"channels": [16, 32, 64, 128], "strides": strides},
            "student": {"channels": [8, 16, 32], "strides": strides[:2]},
            "training": {"patch_size": patch},
            "limits": {"hospitals": len(SITES), "quorum": 2},
        },
        f"the scenario made for {dataset.folder}",
    )
    deals = tuple(Deal(task=f"stage-{n}", part=(n, 3)) for n in (1, 2, 3))
    return Scenario(name=GENERIC, sites=SITES, test=Split(), deals=deals, plan=plan)


# Hounsfield units start near -1000 in air; MR has no such values.
CT_BELOW = -200


def _try_read(dataset: Dataset, case: Case) -> tuple[ReadCase, np.ndarray] | None:
    try:
        read = read_case(dataset, case)
    except BadScanError:
        return None
    return (read, read.reference) if read.reference is not None else None


def _labels(names: dict[int, str], *, named: bool) -> list[dict[str, object]]:
    """The plan's dictionary; where the data set names nothing, its values are the indexes."""
    if not named and sorted(names) != list(range(1, len(names) + 1)):
        raise SettingsError(
            f"the labels have the values {sorted(names)} and no names: add labels.json "
            '({"1": "name", ...}) beside images/, or write a scenario'
        )
    palette = ("#d95f02", "#1b9e77", "#7570b3", "#e7298a", "#66a61e", "#e6ab02", "#a6761d")
    return [
        {"name": names[value], "index": place + 1, "colour": palette[place % 7]}
        for place, value in enumerate(sorted(names))
    ]


def patch_and_strides(size: np.ndarray) -> tuple[list[int], list[list[int]]]:
    """About the median scan, its longest sides cut until a patch is cheap to train on.

    An axis is halved on the way down only while it keeps four voxels.
    """
    wanted = np.maximum(size.astype(int), 4)
    while wanted.prod() > LARGEST_PATCH_VOXELS:
        wanted[wanted.argmax()] = wanted.max() - 1
    patch, strides = [], [[1, 1, 1] for _ in range(3)]
    for axis, length in enumerate(wanted.tolist()):
        halvings = next((n for n in (3, 2, 1) if length >= 4 * 2**n), 0)
        patch.append(length // 2**halvings * 2**halvings)
        for level in range(halvings):
            strides[level][axis] = 2
    return patch, strides
