"""How a trained model travels to the coordinator: as it is, or as what the round changed.

"float16-deltas" sends the difference from the model that came, in half precision: half the bytes.
Whoever holds what was sent out adds it. A difference keeps 11 significant bits of what a round
learned; the weights themselves, rounded so, would lose most of it, since it is small beside them.
"""

import numpy as np

from common.plan import Wire
from common.updates import Arrays, check_arrays

HALF = np.dtype(np.float16)
# By which share travelling may lengthen an update.
ROUNDING: dict[Wire, float] = {"float32": 0.0, "float16-deltas": 2**-11}


def to_wire(arrays: Arrays, received: Arrays, wire: Wire) -> Arrays:
    """What leaves of a model that was trained from `received`, with the same names and shapes.

    A difference beyond half precision becomes infinite, which the checks of what leaves refuse.
    """
    if wire == "float32":
        return arrays
    with np.errstate(over="ignore", invalid="ignore"):
        return {
            name: np.asarray(np.subtract(array, received[name], dtype=np.float64), HALF)
            for name, array in arrays.items()
        }


def from_wire(came: Arrays, sent: Arrays, wire: Wire) -> Arrays:
    """The model in what came, with the dtypes of `sent`, what its training began with.

    Raises:
        BadReplyError: these are no differences from `sent`, or not finite.
    """
    if wire == "float32" or not came:
        return came
    check_arrays(came, looks_on_wire(sent, wire))
    return {
        name: np.asarray(np.add(array, came[name], dtype=array.dtype))
        for name, array in sent.items()
    }


def looks_on_wire(arrays: Arrays, wire: Wire) -> Arrays:
    """Stand-ins with the names, shapes and dtypes that a model has on the wire; without memory."""
    if wire == "float32":
        return arrays
    zero = np.zeros((), HALF)
    return {name: np.broadcast_to(zero, array.shape) for name, array in arrays.items()}


def bytes_by_network(arrays: Arrays) -> dict[str, int]:
    """What the tensors of each network weigh, by the first part of their names."""
    found: dict[str, int] = {}
    for name, array in sorted(arrays.items()):
        network = name.partition("/")[0]
        found[network] = found.get(network, 0) + array.nbytes
    return found
