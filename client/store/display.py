"""What the clinician's page shows of a scan: whole numbers, one slice after another.

The normalised volume is for networks. A person wants Hounsfield units in CT and the scanner's own
contrast in MR, and one slice at a time: stored with the painted axis first, a slice of a large
volume is one short read.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int16

from common.scans import Modality

LARGEST = 32767  # of 16 bits


@dataclass(frozen=True)
class Display:
    """How the stack's numbers are to be read.

    Attributes:
        unit: Hounsfield units in CT; grey values stretched over 0 to 32767 in MR.
        low: shown black, to begin with.
        high: shown white, to begin with.
    """

    unit: Literal["HU", "grey"]
    low: int
    high: int


def make_display(
    image: Float[np.ndarray, "c i j k"],
    axis: int,
    modality: Modality,
    window_hu: tuple[float, float] | None,
) -> tuple[Int16[np.ndarray, "d rows columns"], Display]:
    """The first channel of a scan as it came, with `axis` first."""
    stack = np.moveaxis(np.asarray(image[0], dtype=np.float32), axis, 0)
    if modality == "CT":
        assert window_hu is not None  # the plan refuses a CT task without one
        numbers = np.clip(np.rint(stack), -LARGEST - 1, LARGEST)
        shown = Display("HU", round(window_hu[0]), round(window_hu[1]))
    else:
        lowest, highest = float(stack.min()), float(stack.max())
        numbers = np.rint((stack - lowest) * (LARGEST / max(highest - lowest, 1e-12)))
        low, high = (round(float(n)) for n in np.percentile(numbers, [0.5, 99.5]))
        shown = Display("grey", low, max(high, low + 1))
    return np.ascontiguousarray(numbers.astype(np.int16)), shown
