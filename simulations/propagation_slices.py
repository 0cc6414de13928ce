"""Which slice of each scored scan is painted: the best one by the truth, or one chosen without."""

from collections.abc import Sequence
from typing import get_args

import numpy as np
from jaxtyping import Integer

from client.annotation.select_slices import Painted, select_slices
from common.errors import SettingsError
from common.plan import SliceChoice
from common.random_streams import stream_seed
from common.scans import Scan, SliceAnnotation, SliceRef

ORACLE = "oracle"
# `every` is no single slice, and `doubt` takes a segmenter that has learned the classes.
LABEL_FREE = tuple(c for c in get_args(SliceChoice) if c not in ("every", "doubt"))
SLICE_CHOICES: tuple[str, ...] = (ORACLE, *LABEL_FREE)
# Another seed asks for the same slices; all other choices are drawn.
NOT_DRAWN = (ORACLE, "centre", "representative")


def check_slice_choices(names: Sequence[str]) -> None:
    """Refuses a name that is no choice.

    Raises:
        SettingsError: with the names that there are.
    """
    unknown = [name for name in names if name not in SLICE_CHOICES]
    if unknown or not names:
        raise SettingsError(
            f"slice choice {', '.join(map(repr, unknown)) or '(none)'}: expected one or more of "
            f"{', '.join(SLICE_CHOICES)}, with commas between"
        )


def choose_slices(
    scans: Sequence[Scan],
    references: Sequence[Integer[np.ndarray, "i j k"]],
    axis: int,
    choice: str,
    seed: int,
) -> list[SliceRef]:
    """One slice per scan, in their order.

    Only the oracle looks at a scan's own reference; `cohort` also at what was painted on the scans
    before.
    """
    if choice == ORACLE:
        return [
            SliceRef(scan.scan_id, axis, best_slice(reference, axis))
            for scan, reference in zip(scans, references, strict=True)
        ]
    known = next(name for name in LABEL_FREE if name == choice)
    drawn_from = stream_seed(seed, "slice choice", choice)
    refs: list[SliceRef] = []
    painted: list[Painted] = []
    for place, (scan, reference) in enumerate(zip(scans, references, strict=True)):
        image, where = np.asarray(scan.image), (scan.scan_id, axis)
        refs += select_slices(image, where, known, place=place, seed=drawn_from, painted=painted)
        position = (refs[-1].index + 0.5) / scan.geometry.shape[axis]
        painted.append(Painted(position, bool(reference[refs[-1].selection].any())))
    return refs


def best_slice(reference: Integer[np.ndarray, "i j k"], axis: int) -> int:
    """The slice with the largest balanced area.

    For every class of the scan its area as a share of its own largest area along the axis; of these
    the smallest counts. Where no slice shows all classes, and in a tie, the mean share decides;
    a scan without any class gives its middle.
    """
    plane = tuple(other for other in range(3) if other != axis)
    classes = [value for value in np.unique(reference) if value]
    if not classes:
        return int(reference.shape[axis]) // 2
    areas = np.stack([(reference == value).sum(axis=plane) for value in classes])
    shares = areas / areas.max(axis=1, keepdims=True)
    smallest, mean = shares.min(axis=0), shares.mean(axis=0)
    best_first = np.lexsort((-mean, -smallest))
    return int(best_first[0])


def paint(
    reference: Integer[np.ndarray, "i j k"], ref: SliceRef, classes: tuple[int, ...]
) -> SliceAnnotation:
    """The slice as the truth has it; all background where it shows no structure."""
    mask = np.array(reference[ref.selection], dtype=np.uint8)
    return SliceAnnotation(ref, mask, classes, "truth", 0.0)
