"""Independent random generators from one seed and a path of names.

A stream depends only on its seed and path, never on what ran before it, so a resumed run, another
order of hospitals or another engine draws the same numbers.
"""

import hashlib

import numpy as np


def stream_seed(seed: int, *path: str | int) -> int:
    """A 63-bit seed for the stream named by `path`, for libraries that want an integer."""
    name = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) >> 1


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator for the stream named by `path`."""
    return np.random.default_rng(stream_seed(seed, *path))
