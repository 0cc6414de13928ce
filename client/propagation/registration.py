"""Carries a painted slice by deformable registration from slice to slice.

The registration proxy of the dynamic interactive learning framework (Tian, Chen and Gao, 2023;
re-implementation after the published description), with SimpleITK's fast symmetric demons. It bends
a shape well and never ends it, so it only votes on where a structure lies, not whether.
"""

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float
from torch import Tensor

from client.propagation.region import region_around

ITERATIONS = 30
SMOOTHING_VOXELS = 1.0
# Around the structures, so that the edge of the region pulls at none of them.
MARGIN_VOXELS = 12


def carry_by_registration(
    stack: Float[Tensor, "c d h w"], painted: Float[Tensor, "n h w"], start: int
) -> Float[Tensor, "n d h w"]:
    """Class probabilities along the whole stack, moved by one deformation per step.

    Channels are averaged for the registration. An all-background slice stays all background.
    """
    depth = stack.shape[1]
    slices = stack.mean(0).cpu().numpy().astype(np.float32)
    foreground = np.zeros((len(painted) - 1, depth, *painted.shape[1:]), dtype=np.float32)
    foreground[:, start] = painted[1:].cpu().numpy()
    for step in (1, -1):
        here = start
        while 0 <= here + step < depth and foreground[:, here].any():
            there = here + step
            rows, columns = region_around(foreground[:, here], MARGIN_VOXELS)
            field = displacement(slices[there, rows, columns], slices[here, rows, columns])
            foreground[:, there, rows, columns] = warp(foreground[:, here, rows, columns], field)
            here = there
    moved = torch.from_numpy(foreground)
    return torch.cat([1 - moved.sum(0, keepdim=True), moved]).to(stack.device)


def displacement(
    fixed: Float[np.ndarray, "h w"], moving: Float[np.ndarray, "h w"]
) -> sitk.DisplacementFieldTransform:
    """Where each pixel of `fixed` comes from in `moving`, in pixels."""
    demons = sitk.FastSymmetricForcesDemonsRegistrationFilter()
    demons.SetNumberOfThreads(1)  # a slice is too small to share: threads cost three times more
    demons.SetNumberOfIterations(ITERATIONS)
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(SMOOTHING_VOXELS)
    field = demons.Execute(sitk.GetImageFromArray(fixed), sitk.GetImageFromArray(moving))
    return sitk.DisplacementFieldTransform(sitk.Cast(field, sitk.sitkVectorFloat64))


def warp(
    foreground: Float[np.ndarray, "n h w"], field: sitk.DisplacementFieldTransform
) -> Float[np.ndarray, "n h w"]:
    """The probabilities moved, linearly interpolated; what comes from outside is background."""
    # One image of n components is resampled once, which is quicker than n images.
    components = sitk.GetImageFromArray(np.moveaxis(foreground, 0, -1), isVector=True)
    resample = sitk.ResampleImageFilter()
    resample.SetNumberOfThreads(1)
    resample.SetReferenceImage(components)
    resample.SetTransform(field)
    moved = sitk.GetArrayFromImage(resample.Execute(components))
    moved = moved.reshape(*foreground.shape[1:], len(foreground))
    result: Float[np.ndarray, "n h w"] = np.moveaxis(moved, -1, 0).clip(0, 1)
    return result
