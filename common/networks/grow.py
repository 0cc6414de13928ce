"""Makes room for new classes in trained networks: what is known stays to the bit.

Where a tensor has one row per class, the old rows stay. A new class begins as a copy of the
background, which is what all scans so far took it for, so that its logit follows the background's
everywhere, and is lower by a constant: it wins nowhere, and the likeliest class of every voxel is
what it was. After Cermelli et al., "Modeling the background for incremental learning in semantic
segmentation" (CVPR 2020), who share the background's probability evenly; re-implementation after
the published description. Fresh rows win somewhere at once, or are learnt late.
"""

import math

import numpy as np

from common.networks.embedding import EMBEDDING
from common.updates import Arrays

# The probability of a new class beside that of the background, when it begins. All who read
# probabilities add those of classes that nobody looked for to the background's, so a large share
# costs nothing; from a small one a rare structure takes long to come up.
NEW_SHARE = 0.9
BACKGROUND = 0


def grow_arrays(trained: Arrays, fresh: Arrays) -> Arrays:
    """The trained tensors in the shapes of a plan with more classes.

    Args:
        trained: of the earlier plan, "segmenter/..." and so on.
        fresh: those of the new plan, first weights. What only they have is taken as it is; what
            only the trained ones have is left behind.
    """
    # In the order of the layers: the last bias with one number per class is that of the logits.
    last_bias = {
        name.split("/")[0]: name
        for name, array in fresh.items()
        if array.ndim == 1 and name in trained and trained[name].shape != array.shape
    }
    grown = {}
    for name, wanted in fresh.items():
        if name not in trained:
            grown[name] = wanted
        elif name.startswith(f"{EMBEDDING}/"):
            # A prototype of length zero: the class has no place in the embedding yet.
            grown[name] = _pad(trained[name], wanted.shape)
        else:
            shift = math.log(NEW_SHARE) if name in last_bias.values() else 0.0
            grown[name] = _grow(trained[name], wanted.shape, shift)
    return grown


def _grow(old: np.ndarray, shape: tuple[int, ...], shift: float) -> np.ndarray:
    """With copies of the background's row, shifted; whatever is known does not listen to them."""
    axes = [axis for axis, size in enumerate(shape) if size != old.shape[axis]]
    if not axes:
        return old
    # A layer with a row per class on both sides names the side that goes out first.
    out = axes[0]
    row = np.take(old, [BACKGROUND], axis=out) + np.asarray(shift, old.dtype)
    rows = np.repeat(row, shape[out] - old.shape[out], axis=out)
    return _pad(np.concatenate([old, rows], axis=out), shape)


def _pad(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    grown = np.zeros(shape, old.dtype)
    grown[tuple(slice(size) for size in old.shape)] = old
    return grown
