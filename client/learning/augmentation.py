"""Random changes to training patches: drawn in one function, applied in another by TorchIO."""

import math
from dataclasses import dataclass

import numpy as np
import torchio as tio
from jaxtyping import Float
from scipy.spatial.transform import Rotation
from torch import Tensor

from common.plan import Augmentation


@dataclass(frozen=True)
class Change:
    """One draw. Degrees and scales per axis; `gain` and `gamma` multiply and bend intensities."""

    degrees: tuple[float, float, float]
    scales: tuple[float, float, float]
    gamma: float
    gain: float
    noise: float
    noise_seed: int


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
    )


def region_for(patch_size: tuple[int, int, int], change: Change) -> tuple[int, int, int]:
    """How large a region must be cut so that the turned and scaled patch lies within it.

    Larger than the patch by an even number along each axis: both then have the same centre.
    """
    size = np.asarray(patch_size)
    # TorchIO turns about axis 1, then 0, then 2, then scales; a patch voxel's origin undoes that.
    pitch, yaw, roll = change.degrees
    turn = Rotation.from_euler("yxz", [yaw, pitch, roll], degrees=True).as_matrix()
    half = np.abs(turn.T) @ (size / 2 / np.minimum(change.scales, 1))
    margin = np.ceil(np.maximum(half - size / 2, 0)).astype(int)
    region = size + 2 * margin
    return (int(region[0]), int(region[1]), int(region[2]))


def apply_change(
    image: Float[Tensor, "c i j k"], labels: Float[Tensor, "n i j k"], change: Change
) -> tuple[Float[Tensor, "c i j k"], Float[Tensor, "n i j k"]]:
    """The region turned and scaled about its centre, its intensities changed.

    `labels` are moved with linear interpolation, zero comes in from outside, and they keep their
    values otherwise.
    """
    subject = tio.Subject(
        image=tio.ScalarImage(tensor=image), labels=tio.ScalarImage(tensor=labels)
    )
    move = tio.Affine(
        scales=change.scales,
        degrees=change.degrees,
        translation=(0, 0, 0),
        default_pad_value=0,
        image_interpolation="linear",
    )
    moved = move(subject)
    recolour = tio.Compose(
        [
            tio.Gamma(gamma=change.gamma),
            tio.Noise(mean=0, std=change.noise, seed=change.noise_seed),
        ]
    )
    coloured = recolour(tio.Subject(image=moved.image))
    return coloured.image.data * change.gain, moved.labels.data
