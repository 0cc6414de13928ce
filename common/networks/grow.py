"""Makes room for new classes in trained networks: what is known stays to the bit.

Where a tensor has one row per class, the old rows stay and those of new classes are drawn fresh, as
in a plan that has had them from the beginning. Until its stage a new class is silent, so that it
wins nowhere; then it is learnt from where it is.

The last features of our U-Nets have one channel per class, too, and the old logits take nothing
from those that are new.
"""

import numpy as np

from common.networks.embedding import EMBEDDING
from common.updates import Arrays


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
    first_new = len(trained[bias])
    grown = {name: _lay_on(fresh[name], trained[name]) for name in (*of_features, bias)}
    # The old logits do not listen to the features of new classes.
    grown[weight] = _pad(trained[weight], fresh[weight].shape)
    new_rows = [slice(None)] * fresh[weight].ndim
    new_rows[_axis_of_outputs(trained[weight], fresh[weight])] = slice(first_new, None)
    grown[weight][*new_rows] = fresh[weight][*new_rows]
    return grown


def _axis_of_outputs(old: np.ndarray, larger: np.ndarray) -> int:
    """A convolution from classes to classes has its outputs on the first axis that grows."""
    sizes = zip(old.shape, larger.shape, strict=True)
    return next(axis for axis, (before, after) in enumerate(sizes) if before != after)


def _pad(old: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return _lay_on(np.zeros(shape, old.dtype), old)


def _lay_on(larger: np.ndarray, old: np.ndarray) -> np.ndarray:
    laid = larger.copy()
    laid[tuple(slice(size) for size in old.shape)] = old
    return laid
