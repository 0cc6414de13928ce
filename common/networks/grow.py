"""Makes room for new classes in trained networks: what is known stays to the bit.

Where a tensor has one row per class, the old rows stay. A new class begins where the background is,
which is what all scans so far took it for: its logit follows the background's everywhere and is
lower by a constant, so that it wins nowhere, and the likeliest class of every voxel is what it was.
After Cermelli et al., "Modeling the background for incremental learning in semantic segmentation"
(CVPR 2020), who share the background's probability evenly; re-implementation after the published
description.

The last features of our U-Nets have one channel per class, too. That of a new class is drawn fresh:
a copy of the background's would tell the class nothing new, and it would be learnt late. What the
top adds of it to the logit is taken off again, to begin with.
"""

import math

import numpy as np

from common.networks.embedding import EMBEDDING
from common.updates import Arrays

# The probability of a new class beside that of the background, where its stage comes at once (until
# then it is silent). So it wins nowhere; from a small share a rare structure comes up late.
NEW_SHARE = 0.9
BACKGROUND = 0


def grow_arrays(trained: Arrays, fresh: Arrays) -> Arrays:
    """The trained tensors in the shapes of a plan with more classes.

    Args:
        trained: of the earlier plan, "segmenter/..." and so on.
        fresh: those of the new plan, first weights, in the order of the layers. What only they have
            is taken as it is; what only the trained ones have is left behind.
    """
    grown = {name: trained.get(name, array) for name, array in fresh.items()}
    larger = [name for name, array in fresh.items() if grown[name].shape != array.shape]
    for role in dict.fromkeys(name.split("/")[0] for name in larger):
        names = [name for name in larger if name.startswith(f"{role}/")]
        if role == EMBEDDING:
            # A prototype of length zero: the class has no place in the embedding yet.
            grown |= {name: _pad(trained[name], fresh[name].shape) for name in names}
        else:
            grown |= _grow_top(trained, fresh, names)
    return grown


def _grow_top(trained: Arrays, fresh: Arrays, names: list[str]) -> Arrays:
    """The topmost layers of a U-Net, by name in their order.

    Without residual units a transposed convolution gives the logits. With them it gives the last
    features, and a residual unit the logits: a convolution of the features, and the features.
    """
    *of_features, weight, bias = names
    grown = {name: _lay_on(fresh[name], trained[name]) for name in of_features}
    grown[weight] = _repeat_background(trained[weight], fresh[weight].shape)
    grown[bias] = _repeat_background(trained[bias], fresh[bias].shape)
    first_new = len(trained[bias])
    grown[bias][first_new:] += np.asarray(math.log(NEW_SHARE), grown[bias].dtype)
    if of_features:
        middle = tuple(size // 2 for size in grown[weight].shape[2:])
        for index in range(first_new, len(grown[bias])):
            # The unit adds a class's own feature to its logit: the background's instead.
            grown[weight][index, BACKGROUND, *middle] += 1
            grown[weight][index, index, *middle] -= 1
    return grown


def _repeat_background(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """With copies of the background's row behind the old ones, which do not listen to new inputs.

    A convolution from classes to classes has its outputs on the first axis that grows.
    """
    out = next(axis for axis, size in enumerate(shape) if size != old.shape[axis])
    row = np.take(old, [BACKGROUND], axis=out)
    rows = np.repeat(row, shape[out] - old.shape[out], axis=out)
    return _pad(np.concatenate([old, rows], axis=out), shape)


def _pad(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return _lay_on(np.zeros(shape, old.dtype), old)


def _lay_on(larger: np.ndarray, old: np.ndarray) -> np.ndarray:
    laid = larger.copy()
    laid[tuple(slice(size) for size in old.shape)] = old
    return laid
