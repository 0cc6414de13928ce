"""What all tasks together know of a scan's painted slices.

A volume that serves several tasks is a scan of its own for each (`common.scans.volume_of`), and is
often painted on the same slice for all of them. What was found there for one task is true for the
others, too.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np

from client.store.annotations import latest_annotations
from client.store.reviews import flagged_scans
from client.store.scans import ids_of_volume
from client.store.store import Store
from common.scans import SliceAnnotation, volume_of

Place = tuple[int, int]  # axis and index


def complete_annotations(
    store: Store, scan_id: str, tasks: Collection[str]
) -> list[SliceAnnotation]:
    """The newest version of each painted slice, with what others of these tasks know of them all.

    Another task counts where each slice of the scan was painted for it as well, with the same
    classes, and nobody flagged that. Classes known on some slices only would make the rest of the
    others unknown (`spread_labels`). Where two tasks painted a pixel, the scan's own one is right.
    """
    known = latest_annotations(store, scan_id)
    with store.read() as connection:
        id_of = ids_of_volume(connection, volume_of(scan_id))
    others = sorted(one for task, one in id_of.items() if task in tasks and one != scan_id)
    flagged = flagged_scans(store) if others else set()
    for other in others:
        if other not in flagged:
            known = _joined(known, latest_annotations(store, other))
    return known


def _joined(
    known: Sequence[SliceAnnotation], others: Sequence[SliceAnnotation]
) -> list[SliceAnnotation]:
    at = {_place(one): one for one in others}
    if not all(_place(one) in at for one in known):
        return list(known)
    pairs = [(one, at[_place(one)]) for one in known]
    added = {tuple(sorted({*other.looked_for} - {*one.looked_for})) for one, other in pairs}
    if len(added) != 1:
        return list(known)
    (new,) = added
    return [_with(one, other, new) for one, other in pairs]


def _with(one: SliceAnnotation, other: SliceAnnotation, new: tuple[int, ...]) -> SliceAnnotation:
    theirs = np.where(np.isin(other.mask, new), other.mask, 0)
    mask = np.where(one.mask > 0, one.mask, theirs).astype(np.uint8)
    return replace(one, mask=mask, looked_for=tuple(sorted({*one.looked_for, *new})))


def _place(annotation: SliceAnnotation) -> Place:
    return annotation.ref.axis, annotation.ref.index
