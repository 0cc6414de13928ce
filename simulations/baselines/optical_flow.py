"""TV-L1 optical flow from slice to slice, hard labels at every step (Zach et al. 2007).

scikit-image's `optical_flow_tvl1` with its own settings, on intensities in [0, 1]. A class that has
become empty stays empty.
"""

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from skimage.registration import optical_flow_tvl1
from torch import Tensor

from simulations.baselines.grey import grey_stack
from simulations.baselines.walk import one_hot, walk_outwards, window_around

MARGIN_VOXELS = 32  # the flow far from the structure does not move it


def optical_flow(
    stack: Float[Tensor, "c d h w"], painted: Float[Tensor, "n h w"], start: int
) -> Float[Tensor, "n d h w"]:
    """The painted labels moved along the flow, nearest pixel, slice by slice."""
    grey = grey_stack(stack, 1.0)

    def step(here: int, there: int, soft: Float[Tensor, "n h w"]) -> Float[Tensor, "n h w"]:
        rows, columns = window_around(soft[1:], MARGIN_VOXELS)
        known = soft[:, rows, columns].argmax(0).numpy()
        moved = _move(known, grey[here, rows, columns].numpy(), grey[there, rows, columns].numpy())
        labels = torch.zeros(soft.shape[1:], dtype=torch.int64)
        labels[rows, columns] = torch.from_numpy(moved)
        return one_hot(labels, len(soft))

    return walk_outwards(painted, stack.shape[1], start, step)


def _move(labels: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Labels of `source`, looked up for each pixel of `target` where the flow says it was."""
    # The pyramid of the method needs two rows and columns; on less there is nothing to follow.
    if min(labels.shape) < 2:
        return labels
    flow = optical_flow_tvl1(target, source)
    came_from = np.indices(labels.shape) + flow
    moved: np.ndarray = ndimage.map_coordinates(labels, came_from, order=0, mode="nearest")
    return moved
