"""Lays voxels that were painted in another program onto the voxels of the scan.

Other programs turn and flip volumes, and cut them to the painted box. What lies on the scan's own
grid is moved by whole voxels, so nothing changes; anything else is refused, never resampled.
"""

import numpy as np
from jaxtyping import Float, UInt8

from client.store.volume_files import grid_tolerance_mm
from common.errors import BadScanError
from common.scans import Geometry

Box = tuple[slice, slice, slice]


def lay_on(
    geometry: Geometry, painted: UInt8[np.ndarray, "i j k"], affine: Float[np.ndarray, "4 4"]
) -> tuple[UInt8[np.ndarray, "a b c"], Box]:
    """A painted volume, turned to the scan's axes and cut to the scan, and where in it this lies.

    Along an axis of one voxel the painted volume's spacing says nothing and does not count.

    Raises:
        BadScanError: another grid, with both in numbers; or something is painted outside the scan.
    """
    to_scan = np.linalg.inv(np.asarray(geometry.affine)) @ affine
    moves = _whole_moves(to_scan, painted.shape)
    _check_grid(geometry, painted.shape, affine, to_scan, moves)
    order = [int(np.flatnonzero(row)[0]) for row in moves[:3, :3]]
    backwards = [bool(moves[axis, order[axis]] < 0) for axis in range(3)]
    turned = painted.transpose(order)[tuple(slice(None, None, -1 if b else 1) for b in backwards)]
    lengths = [n - 1 if back else 0 for n, back in zip(turned.shape, backwards, strict=True)]
    starts = moves[:3, 3].astype(int) - lengths
    within = [
        slice(max(0, -start), max(0, min(n, size - start)))
        for start, n, size in zip(starts, turned.shape, geometry.shape, strict=True)
    ]
    cut = turned[tuple(within)]
    num_outside = np.count_nonzero(turned) - np.count_nonzero(cut)
    if num_outside:
        raise BadScanError(
            f"{num_outside} painted voxels lie outside the scan of {geometry.shape} voxels: is "
            "this mask painted on another scan?"
        )
    i, j, k = (
        slice(start + w.start, start + w.stop) for start, w in zip(starts, within, strict=True)
    )
    return cut, (i, j, k)


def _whole_moves(to_scan: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The nearest way from voxel to voxel that turns, flips and shifts only; maybe far off."""
    moves = np.zeros((4, 4))
    moves[3, 3], moves[:3, 3] = 1, np.rint(to_scan[:3, 3])
    free = set(range(3))
    # Axes of one voxel last: theirs is the direction that is left.
    for axis in sorted(range(3), key=lambda axis: shape[axis] == 1):
        along = max(free, key=lambda row: abs(to_scan[row, axis]))
        moves[along, axis] = np.sign(to_scan[along, axis]) or 1
        free.remove(along)
    return moves


def _check_grid(
    geometry: Geometry,
    shape: tuple[int, ...],
    affine: np.ndarray,
    to_scan: np.ndarray,
    moves: np.ndarray,
) -> None:
    scan = np.asarray(geometry.affine)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij")).reshape(4, -1)
    apart_mm = float(np.sqrt(((scan @ (to_scan - moves) @ corners) ** 2).sum(axis=0)).max())
    if apart_mm <= grid_tolerance_mm(scan):
        return
    raise BadScanError(
        f"the mask is not on the scan's grid, but up to {apart_mm:.3g} mm away: it has "
        f"{_in_words(shape, affine)}, the scan {_in_words(geometry.shape, scan)}; paint on the "
        "scan itself, or resample the mask onto it (nearest neighbour)"
    )


def _in_words(shape: tuple[int, ...], affine: np.ndarray) -> str:
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(axis=0))
    sides = " x ".join(str(n) for n in shape)
    millimetres = " x ".join(f"{n:.4g}" for n in spacing)
    first = ", ".join(f"{n:.4g}" for n in affine[:3, 3])
    return f"{sides} voxels of {millimetres} mm from ({first}) mm"
