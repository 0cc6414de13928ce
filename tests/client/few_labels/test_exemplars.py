"""Which scans lend their structures, and what of them is cut out."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from client.few_labels.exemplars import choose_exemplars, known_volumes
from client.learning.examples import Example
from common.scans import Geometry, LabelMap, Scan

MakeScan = Callable[..., Example]


def example(
    scan_id: str,
    hard: np.ndarray,
    weight: np.ndarray | float = 1.0,
    classes: tuple[int, ...] = (1,),
) -> Example:
    i, j, k = hard.shape
    affine = tuple(tuple(row) for row in np.eye(4).tolist())
    labels = LabelMap(
        classes=classes,
        soft=np.stack([hard == index for index in (0, *classes)]).astype(np.float32),
        weight=np.broadcast_to(np.float32(weight), hard.shape).copy(),
        expert=np.zeros(hard.shape, dtype=bool),
        spread=classes,
        source="propagated",
    )
    scan = Scan(scan_id, hard[None].astype(np.float32), Geometry((i, j, k), affine), "MR")
    return Example(scan, labels, 1 + max(classes))


def block(voxels: int, index: int = 1) -> np.ndarray:
    """A row of `voxels` voxels of a structure, from one end of the volume."""
    hard = np.zeros((12, 5, 5), dtype=np.uint8)
    hard[:voxels, 2, 2] = index
    return hard


def names(examples: list[Example], number: int) -> list[str]:
    return [one.known.scan.scan_id for one in choose_exemplars(examples, number)]


def test_a_known_volume_counts_weight_and_probability() -> None:
    labels = example("a", block(4), weight=0.5).labels
    assert known_volumes(labels) == {1: 2.0}
    doubtful = replace(labels, soft=np.stack([1 - labels.soft[1] / 4, labels.soft[1] / 4]))
    assert known_volumes(doubtful) == {1: 0.5}


def test_those_come_first_of_which_most_is_known() -> None:
    found = names([example("a", block(3)), example("b", block(9)), example("c", block(6))], 2)
    assert found == ["b", "c"]
    # Nine voxels that are hardly trusted are less than three that are.
    found = names([example("a", block(3)), example("b", block(9), weight=0.25)], 2)
    assert found == ["a", "b"]


def test_a_small_structure_counts_as_much_as_a_large_one() -> None:
    large, small = block(10), block(2, index=2)
    both = block(4)
    both[8:10, 2, 2] = 2
    found = names(
        [
            example("large", large, classes=(1, 2)),
            example("small", small, classes=(1, 2)),
            example("both", both, classes=(1, 2)),
        ],
        3,
    )
    # 4/10 + 2/2, then 10/10 and 2/2 in the order of their names.
    assert found == ["both", "large", "small"]


def test_their_order_does_not_depend_on_the_order_of_the_scans() -> None:
    scans = [example(name, block(5)) for name in "cab"]
    assert names(scans, 2) == names(scans[::-1], 2) == ["a", "b"]


@pytest.mark.parametrize("nothing", [example("a", block(0)), example("a", block(5), weight=0.0)])
def test_a_scan_of_which_no_structure_is_known_is_no_exemplar(nothing: Example) -> None:
    assert choose_exemplars([nothing], 3) == ()


def test_beside_a_painted_slice_the_structure_is_cut_out_but_stays_unknown() -> None:
    hard = np.zeros((5, 5, 12), dtype=np.uint8)
    hard[2, 2, 1:11] = 1
    weight = np.zeros(hard.shape, dtype=np.float32)
    weight[..., 6] = 1
    exemplar = choose_exemplars([example("a", hard, weight)], 1)[0]
    assert exemplar.structures == (1,)
    # Two voxels beside the slice, and only the structure.
    wanted = np.zeros(hard.shape, dtype=np.float32)
    wanted[2, 2, 4:9] = 1
    assert np.array_equal(exemplar.shape.labels.weight, wanted)
    assert np.array_equal(exemplar.known.labels.weight, weight)


def test_of_a_volume_that_is_known_all_is_cut_out() -> None:
    hard = block(8)
    exemplar = choose_exemplars([example("a", hard, weight=0.3)], 1)[0]
    assert np.array_equal(exemplar.shape.labels.weight, (hard == 1).astype(np.float32))
