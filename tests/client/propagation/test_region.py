"""The part of a slice that is looked at."""

import numpy as np

from client.propagation.region import region_around


def test_the_region_holds_all_structures_and_a_margin() -> None:
    foreground = np.zeros((2, 20, 30), dtype=np.float32)
    foreground[0, 5, 7] = 1
    foreground[1, 8, 2] = 0.5
    foreground[1, 19, 29] = 0.0005  # negligible
    # Rows 5 to 8, columns 2 to 7, three more on each side and none outside the slice.
    assert region_around(foreground, 3) == (slice(2, 12), slice(0, 11))


def test_without_any_structure_a_corner_is_enough() -> None:
    assert region_around(np.zeros((1, 20, 30), dtype=np.float32), 2) == (slice(0, 3), slice(0, 3))
