"""Stacks in which a textured square moves over a textured ground."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

MovingSquare = Callable[..., tuple[Tensor, Tensor]]


@pytest.fixture
def moving_square() -> MovingSquare:
    """A stack (1, D, 32, 32) and its truth (D, 32, 32) from the square's first columns.

    A column None stands for a slice without the square. Everything is a soft texture, so that any
    place can be told from its neighbours. With `whole` the ground moves along.
    """

    def make(
        columns: Sequence[int | None], size: int = 10, *, whole: bool = False
    ) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(0)
        ground, inside = (ndimage.gaussian_filter(rng.normal(size=(32, 32)), 1.5) for _ in range(2))
        stack = np.stack([ground] * len(columns))
        truth = np.zeros(stack.shape, dtype=bool)
        for depth, column in enumerate(columns):
            if whole:
                stack[depth] = np.roll(ground, column or 0, axis=1)
            if column is not None:
                where = slice(11, 11 + size), slice(column, column + size)
                stack[depth][where] = inside[:size, :size] + 1
                truth[depth][where] = True
        normal = (stack - stack.mean()) / stack.std()
        return torch.from_numpy(normal.astype(np.float32))[None], torch.from_numpy(truth)

    return make
