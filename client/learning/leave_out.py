"""Labels of classes that the networks are not taught yet, left out of what they learn from."""

from collections.abc import Collection
from dataclasses import replace

from common.scans import LabelMap


def leave_out(labels: LabelMap, classes: Collection[int]) -> LabelMap:
    """The labels as if nobody had looked for these classes; the background has their share."""
    kept = tuple(index for index in labels.classes if index not in classes)
    if kept == labels.classes:
        return labels
    soft = labels.soft[[0, *(1 + labels.classes.index(index) for index in kept)]]
    soft[0] += labels.soft.sum(0) - soft.sum(0)
    spread = tuple(index for index in labels.spread if index not in classes)
    return replace(labels, classes=kept, soft=soft.astype(labels.soft.dtype), spread=spread)
