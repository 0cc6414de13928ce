"""The walk from the painted slice to both ends of the stack, and the window that is looked at."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

NEGLIGIBLE = 1e-3  # probability under which a pixel is background

# From (the slice that is known, its neighbour, the classes on the first) to those on the second.
Step = Callable[[int, int, Float[Tensor, "n h w"]], Float[Tensor, "n h w"]]


def walk_outwards(
    painted: Float[Tensor, "n h w"], depth: int, start: int, step: Step
) -> Float[Tensor, "n d h w"]:
    """Steps from slice to slice, both ways, until nothing but background is left."""
    soft = torch.zeros(len(painted), depth, *painted.shape[1:])
    soft[0] = 1
    soft[:, start] = painted
    for direction in (1, -1):
        here = start
        while 0 <= here + direction < depth and bool((soft[1:, here] > NEGLIGIBLE).any()):
            there = here + direction
            soft[:, there] = step(here, there, soft[:, here])
            here = there
    return soft


def window_around(foreground: Float[Tensor, "n h w"], margin: int) -> tuple[slice, slice]:
    """Rows and columns within `margin` of the foreground, of which there must be some."""
    there = foreground.amax(0) > NEGLIGIBLE
    spans = []
    for other in (1, 0):
        found = there.any(other).nonzero()
        first, last = int(found[0]), int(found[-1])
        spans.append(slice(max(first - margin, 0), last + margin + 1))
    return spans[0], spans[1]


def one_hot(labels: Tensor, num_classes: int) -> Float[Tensor, "n h w"]:
    """Label numbers (H, W) as class probabilities."""
    return torch.stack([labels == number for number in range(num_classes)]).float()
