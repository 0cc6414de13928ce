"""Intensities on one scale, by modality."""

import numpy as np
from jaxtyping import Float

from common.scans import Modality

Image = Float[np.ndarray, "c i j k"]


def normalise(image: Image, modality: Modality, window_hu: tuple[float, float] | None) -> Image:
    """CT: clipped to the window and brought to [-1, 1]. MR: each channel clipped to its 0.5 and
    99.5 percentiles, then to mean 0 and standard deviation 1.
    """  # noqa: D205
    if modality == "CT":
        assert window_hu is not None  # the plan refuses a CT task without one
        low, high = window_hu
        share = (np.clip(image, low, high) - low) / (high - low)
        scaled: Image = (2 * share - 1).astype(np.float32)
        return scaled
    return np.stack([_normalise_mr(channel) for channel in image])


def _normalise_mr(channel: Float[np.ndarray, "i j k"]) -> Float[np.ndarray, "i j k"]:
    low, high = np.percentile(channel, [0.5, 99.5])
    # A few bright voxels on black would clip to a constant; then the full range is kept.
    clipped = np.clip(channel, low, high) if high > low else channel
    spread = float(clipped.std())
    scored: np.ndarray = ((clipped - clipped.mean()) / max(spread, 1e-6)).astype(np.float32)
    return scored
