"""Classes that come later are no labels yet."""

import numpy as np

from client.learning.leave_out import leave_out
from common.scans import LabelMap


def labels_of(classes: tuple[int, ...], shares: list[float]) -> LabelMap:
    soft = np.array(shares, dtype=np.float32)[:, None, None, None] * np.ones((1, 2, 1, 1), "f4")
    seen = np.ones((2, 1, 1), dtype=np.float32)
    return LabelMap(classes, soft, seen, seen > 0, classes[-1:], "propagated")


def test_the_background_has_the_share_of_what_comes_later() -> None:
    labels = labels_of((1, 3), [0.2, 0.5, 0.3])
    left = leave_out(labels, (2, 3))
    assert (left.classes, left.spread) == ((1,), ())
    np.testing.assert_allclose(left.soft[:, 0, 0, 0], [0.5, 0.5])
    np.testing.assert_allclose(labels.soft[:, 0, 0, 0], [0.2, 0.5, 0.3])
    assert left.weight is labels.weight


def test_labels_of_other_classes_are_given_back_as_they_are() -> None:
    labels = labels_of((1, 3), [0.2, 0.5, 0.3])
    assert leave_out(labels, (2,)) is labels
