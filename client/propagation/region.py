"""The part of a slice that can matter for the next step: large slices mostly do not."""

import numpy as np
from jaxtyping import Float

NEGLIGIBLE = 1e-3  # probability under which a pixel is background


def region_around(foreground: Float[np.ndarray, "n h w"], margin: int) -> tuple[slice, slice]:
    """The rows and columns that hold any of the structures, and `margin` pixels around them."""
    there = foreground.max(0) > NEGLIGIBLE
    spans = []
    for others in (1, 0):
        found = np.flatnonzero(there.any(others))
        first, last = (int(found[0]), int(found[-1])) if len(found) else (0, 0)
        spans.append(slice(max(first - margin, 0), last + margin + 1))
    return spans[0], spans[1]
