"""How far slices lie from a painted one, and values per slice lined up with a volume."""

import numpy as np
from jaxtyping import Float, Shaped

from common.scans import SliceRef


def distance_slices(ref: SliceRef, depth: int) -> Float[np.ndarray, "d"]:
    """The distance of each of `depth` slices from the painted one, in slices."""
    result: Float[np.ndarray, "d"] = np.abs(np.arange(depth) - ref.index).astype(np.float32)
    return result


def along(axis: int, values: Shaped[np.ndarray, "d"]) -> Shaped[np.ndarray, "a b c"]:
    """One value per slice, shaped so that it broadcasts against (I, J, K)."""
    shape = [1, 1, 1]
    shape[axis] = -1
    return values.reshape(shape)
