"""How long an update is, and shorter ones in the same direction."""

import math

import numpy as np

from common.updates import Arrays


def update_norm(arrays: Arrays, received: Arrays) -> float:
    """The L2 norm over all tensors of what training changed; 0 without tensors."""
    # fsum: whatever order the tensors come in, the last bits are the same.
    squares = (float(np.square(step).sum()) for step in _steps(arrays, received))
    return math.sqrt(math.fsum(squares))


def clip_update(arrays: Arrays, received: Arrays, largest_norm: float) -> Arrays:
    """The model with its update scaled down to `largest_norm`; one that is shorter as it is.

    The result's dtypes are those of `arrays`: rounding to them may add its share to the norm.
    """
    norm = update_norm(arrays, received)
    if norm <= largest_norm:
        return arrays
    share = largest_norm / norm
    return {
        name: np.asarray(received[name] + share * step, arrays[name].dtype)
        for name, step in zip(arrays, _steps(arrays, received), strict=True)
    }


def _steps(arrays: Arrays, received: Arrays) -> list[np.ndarray]:
    # In double precision: the squares of finite single numbers never overflow there.
    return [
        np.asarray(np.subtract(array, received[name], dtype=np.float64))
        for name, array in arrays.items()
    ]
