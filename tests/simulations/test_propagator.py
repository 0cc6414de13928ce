"""What all methods of the comparison give, and stacks turned into scans."""

import numpy as np
import torch

from common.scans import Geometry, Scan, SliceAnnotation, SliceRef
from simulations.propagator import SoftLabels, on_stacks, stack_of

IDENTITY = tuple(tuple(row) for row in np.eye(4).tolist())


def scan_of(*shape: int) -> Scan:
    i, j, k = shape
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Scan("scan", image, Geometry((i, j, k), IDENTITY), "MR")


def test_hard_labels_are_the_data_sets_own_values() -> None:
    soft = np.zeros((3, 1, 1, 3), dtype=np.float32)
    soft[[0, 1, 2], 0, 0, [0, 1, 2]] = 1
    assert SoftLabels((4, 9), soft).hard().tolist() == [[[0, 4, 9]]]


def test_a_stack_is_a_copy_with_the_slices_first() -> None:
    scan = scan_of(3, 4, 5)
    for axis in range(3):
        stack = stack_of(scan, axis)
        for index in range(stack.shape[1]):
            where = SliceRef("scan", axis, index).selection
            np.testing.assert_array_equal(stack[:, index].numpy(), scan.image[:, *where])
    kept = scan.image.copy()
    stack_of(scan, 0).fill_(9)
    np.testing.assert_array_equal(scan.image, kept)


def test_a_stack_is_turned_there_and_back() -> None:
    scan = scan_of(3, 4, 5)
    mask = np.zeros((3, 5), np.uint8)
    mask[1, 2] = 1
    ref = SliceRef("scan", 1, 3)
    copied = on_stacks(lambda stack, painted, start: painted[:, None].repeat(1, 4, 1, 1))
    hard = copied(scan, SliceAnnotation(ref, mask, (1,), "truth", 0)).hard()
    assert np.argwhere(hard).tolist() == [[1, row, 2] for row in range(4)]


def test_only_painted_classes_are_carried() -> None:
    seen: list[torch.Tensor] = []

    def keep(stack: torch.Tensor, painted: torch.Tensor, start: int) -> torch.Tensor:
        seen.append(painted)
        return painted[:, None].repeat(1, stack.shape[1], 1, 1)

    mask = np.array([[0, 7], [2, 2], [0, 0]], dtype=np.uint8)
    labels = on_stacks(keep)(
        scan_of(3, 2, 4), SliceAnnotation(SliceRef("scan", 2, 1), mask, (1, 2, 7), "truth", 0)
    )
    assert labels.classes == (2, 7)
    assert seen[0].tolist() == [
        [[1, 0], [0, 0], [1, 1]],
        [[0, 0], [1, 1], [0, 0]],
        [[0, 1], [0, 0], [0, 0]],
    ]
