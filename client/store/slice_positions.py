"""The positions of a stack's slices in words, as a person at the scanner's console knows them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

MOST_NAMED = 12


@dataclass(frozen=True)
class SlicePositions:
    """Where slices lie along their normal.

    Attributes:
        normal: unit vector, in DICOM's coordinates.
        heights_mm: (S,), ascending: the slices' positions on the normal.
    """

    normal: Float[np.ndarray, "3"]
    heights_mm: Float[np.ndarray, "s"]

    @property
    def gaps_mm(self) -> Float[np.ndarray, "g"]:
        """From each slice to the next."""
        gaps: np.ndarray = np.diff(self.heights_mm)
        return gaps

    @property
    def step_mm(self) -> float:
        """The usual gap: the middle one, and of two in the middle the smaller."""
        return float(np.sort(self.gaps_mm)[(len(self.gaps_mm) - 1) // 2])

    def named(self, height_mm: float) -> str:
        """Such as "z = 37.5 mm"; for an oblique stack "37.5 mm along (0.00, 0.19, 0.98)"."""
        axis = self._straight_axis
        if axis is not None:
            return f"{'xyz'[axis]} = {self.bare(height_mm)} mm"
        direction = ", ".join(f"{number:.2f}" for number in self.normal)
        return f"{self.bare(height_mm)} mm along ({direction})"

    def bare(self, height_mm: float) -> str:
        """The number alone: the patient's coordinate where the normal runs along one."""
        axis = self._straight_axis
        sign = 1.0 if axis is None else float(np.sign(self.normal[axis]))
        # + 0.0 turns -0.0 into 0.0.
        return f"{round(sign * height_mm, 2) + 0.0:.2f}".removesuffix("0")

    def found(self, near: int = 0) -> str:
        """All positions, or those around the slice number `near` where there are many."""
        num_slices = len(self.heights_mm)
        first = max(0, min(near - MOST_NAMED // 2, num_slices - MOST_NAMED))
        numbers = [self.bare(height) for height in self.heights_mm[first : first + MOST_NAMED]]
        before = "... " if first > 0 else ""
        after = ", ..." if first + MOST_NAMED < num_slices else ""
        return f"positions found: {before}{', '.join(numbers)}{after} mm ({num_slices} in all)"

    @property
    def _straight_axis(self) -> int | None:
        axis = int(np.argmax(np.abs(self.normal)))
        return axis if abs(self.normal[axis]) > 1 - 1e-6 else None
