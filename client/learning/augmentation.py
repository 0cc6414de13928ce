"""Random changes to training patches: drawn in one function, applied in another."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
import torchio as tio
from jaxtyping import Float
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch import Tensor

from common.learning_settings import Augmentation
from common.random_streams import generator

Size = tuple[int, int, int]

# Over how many voxels a bend of a patch is one and the same.
BEND_WIDTH_VOXELS = 6.0


@dataclass(frozen=True)
class Change:
    """One draw. Degrees and scales per axis; `gain` and `gamma` multiply and bend intensities.

    `elastic_voxels`: by how much voxels are moved typically, along each axis, where space is bent.
    """

    degrees: tuple[float, float, float]
    scales: tuple[float, float, float]
    gamma: float
    gain: float
    noise: float
    noise_seed: int
    elastic_voxels: float = 0.0
    elastic_seed: int = 0
    blur_voxels: float = 0.0


def draw_change(settings: Augmentation, rng: np.random.Generator) -> Change:
    """Draws every number that `apply_change` needs."""
    degrees = [float(rng.uniform(-limit, limit)) for limit in settings.rotation_degrees]
    scales = [math.exp(rng.uniform(-settings.scale, settings.scale)) for _ in range(3)]
    return Change(
        degrees=(degrees[0], degrees[1], degrees[2]),
        scales=(scales[0], scales[1], scales[2]),
        gamma=math.exp(rng.uniform(-settings.log_gamma, settings.log_gamma)),
        gain=float(rng.uniform(1 - settings.gain, 1 + settings.gain)),
        noise=float(rng.uniform(0, settings.noise)),
        noise_seed=int(rng.integers(2**31)),
        # What is off draws nothing: plans without it keep their numbers.
        elastic_voxels=_up_to(settings.elastic_voxels, rng),
        elastic_seed=int(rng.integers(2**31)) if settings.elastic_voxels else 0,
        blur_voxels=_up_to(settings.blur_voxels, rng),
    )


def _up_to(largest: float, rng: np.random.Generator) -> float:
    return float(rng.uniform(0, largest)) if largest else 0.0


def region_for(patch_size: Size, change: Change) -> Size:
    """How large a region must be cut so that the turned and scaled patch lies within it.

    Larger than the patch by an even number along each axis: both then have the same centre.
    """
    size = np.asarray(patch_size)
    half = np.abs(_turn(change).T) @ (size / 2 / np.minimum(change.scales, 1))
    margin = np.ceil(np.maximum(half - size / 2, 0) + 2 * change.elastic_voxels).astype(int)
    region = size + 2 * margin
    return (int(region[0]), int(region[1]), int(region[2]))


def apply_change(
    image: Float[Tensor, "c i j k"],
    labels: Float[Tensor, "n i j k"],
    change: Change,
    size: Size,
) -> tuple[Float[Tensor, "c a b d"], Float[Tensor, "n a b d"]]:
    """The patch of `size` in the middle of the region, turned and scaled, its intensities changed.

    Everything is moved with linear interpolation; zero comes in from outside of the region.
    """
    moved = _move(torch.cat([image, labels]), change, size)
    recolour = tio.Compose(
        [
            *([tio.Blur(std=(change.blur_voxels,) * 3)] if change.blur_voxels else []),
            tio.Gamma(gamma=change.gamma),
        ]
    )
    coloured: Tensor = recolour(moved[: len(image)])
    # TorchIO would seed the generator of the whole process, which other threads draw from.
    drawn = torch.Generator().manual_seed(change.noise_seed)
    noise = change.noise * torch.randn(coloured.shape, generator=drawn)
    return (coloured + noise) * change.gain, moved[len(image) :]


def _move(region: Float[Tensor, "m i j k"], change: Change, size: Size) -> Float[Tensor, "m a b d"]:
    """All channels at once, and only the voxels of the patch (TorchIO moves each channel alone)."""
    offsets = [torch.arange(n, dtype=torch.float64) - (n - 1) / 2 for n in size]
    voxels = torch.stack(torch.meshgrid(*offsets, indexing="ij"), dim=-1)
    if change.elastic_voxels:
        voxels = voxels + _bend(change.elastic_voxels, change.elastic_seed, size)
    origins = voxels @ torch.from_numpy(_origins(change)).T
    # From voxels to the side's share in [-1, 1], last axis first: the convention of `grid_sample`.
    shares = 2 * origins / torch.tensor(region.shape[1:])
    grid = shares.flip(-1).to(region.dtype)[None]
    return F.grid_sample(region[None], grid, mode="bilinear", align_corners=False)[0]


@lru_cache(maxsize=1)  # what is pasted together is bent together, one structure after another
def _bend(voxels: float, seed: int, size: Size) -> Float[Tensor, "a b d 3"]:
    """A smooth random movement of every voxel, after Simard et al. (2003)."""
    drawn = generator(seed, "bend").standard_normal((*size, 3))
    # SciPy smooths fifteen times as fast as MONAI does on one core.
    width = (*[BEND_WIDTH_VOXELS] * 3, 0)
    smooth = ndimage.gaussian_filter(drawn, width, mode="constant")
    # What smoothing leaves of the deviation of independent numbers.
    left = (2 * math.sqrt(math.pi) * BEND_WIDTH_VOXELS) ** -1.5
    return torch.from_numpy(smooth * (voxels / left))


def _origins(change: Change) -> Float[np.ndarray, "3 3"]:
    """From a voxel of the changed patch to where it came from, both counted from the centre."""
    origins: Float[np.ndarray, "3 3"] = _turn(change).T / np.asarray(change.scales)
    return origins


def _turn(change: Change) -> Float[np.ndarray, "3 3"]:
    """A turn about axis 1, then 0, then 2."""
    pitch, yaw, roll = change.degrees
    turn: Float[np.ndarray, "3 3"] = Rotation.from_euler(
        "yxz", [yaw, pitch, roll], degrees=True
    ).as_matrix()
    return turn
