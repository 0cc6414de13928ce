"""Class probabilities of a whole scan, or of the part around one slice."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from monai.inferers import sliding_window_inference
from torch import Tensor
from torch.nn import Module

from common.learning_settings import Training
from common.scans import Geometry, Scan, SliceRef

OVERLAP = 0.5  # of neighbouring windows, along each axis


def predict_probabilities(
    network: Module, scan: Scan, settings: Training, *, device: torch.device
) -> Float[Tensor, "n i j k"]:
    """Probabilities on the scan's own grid, from windows of the training patch's size.

    Instance norm sees as much context here as in training: on hippocampus scans, whole volumes at
    once scored 7.5 Dice points less than windows (docs/benchmarks.md).
    """
    probabilities = slide(network, on_training_grid(scan, settings, device), settings)
    if settings.spacing_mm is not None:
        shape = scan.geometry.shape
        probabilities = F.interpolate(
            probabilities, size=shape, mode="trilinear", align_corners=False
        )
    return probabilities[0].cpu()


def on_training_grid(
    scan: Scan, settings: Training, device: torch.device
) -> Float[Tensor, "1 c a b d"]:
    """The scan's image at the spacing that the networks are trained at."""
    # Copied only if it is mapped from the disk, which Torch does not take.
    writable = np.require(scan.image, dtype=np.float32, requirements=["C", "W"])
    image = torch.from_numpy(writable)[None].to(device)
    if settings.spacing_mm is None:
        return image
    size = size_at_spacing(scan.geometry, settings.spacing_mm)
    return F.interpolate(image, size=size, mode="trilinear", align_corners=False)


def size_at_spacing(
    geometry: Geometry, spacing_mm: tuple[float, float, float]
) -> tuple[int, int, int]:
    """How many voxels of another spacing a scan has along each axis."""
    ratios = zip(geometry.shape, geometry.spacing_mm, spacing_mm, strict=True)
    i, j, k = (max(1, round(n * own / wanted)) for n, own, wanted in ratios)
    return i, j, k


def slide(
    network: Module, image: Float[Tensor, "1 c a b d"], settings: Training, overlap: float = OVERLAP
) -> Float[Tensor, "1 n a b d"]:
    """Probabilities on the training's grid, blended from windows that overlap by a share."""
    device = image.device
    network.to(device).eval()
    with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
        logits = sliding_window_inference(
            image,
            roi_size=settings.patch_size,
            sw_batch_size=settings.batch_size,
            predictor=network,
            overlap=overlap,
            mode="gaussian",
            padding_mode="replicate",
        )
    return torch.softmax(torch.as_tensor(logits).float(), dim=1)


def predict_labels(
    network: Module, scan: Scan, settings: Training, *, device: torch.device
) -> UInt8[np.ndarray, "i j k"]:
    """The likeliest label index of every voxel of the scan."""
    probabilities = predict_probabilities(network, scan, settings, device=device)
    labels: UInt8[np.ndarray, "i j k"] = probabilities.argmax(0).numpy().astype(np.uint8)
    return labels


def predict_slice(
    network: Module,
    scan: Scan,
    ref: SliceRef,
    settings: Training,
    *,
    device: torch.device,
) -> UInt8[np.ndarray, "rows columns"]:
    """The label indexes on one slice, predicted from the slab of a patch's thickness around it."""
    slab, first = _slab_around(scan, ref, settings)
    labels = predict_labels(network, slab, settings, device=device)
    inside = SliceRef(ref.scan_id, ref.axis, ref.index - first)
    painted: UInt8[np.ndarray, "rows columns"] = labels[inside.selection]
    return painted


def _slab_around(scan: Scan, ref: SliceRef, settings: Training) -> tuple[Scan, int]:
    """The scan cut along the slice's axis to the patch's thickness, and where the cut begins."""
    wanted = settings.patch_size[ref.axis]
    if settings.spacing_mm is not None:
        wanted = round(wanted * settings.spacing_mm[ref.axis] / scan.geometry.spacing_mm[ref.axis])
    length = scan.geometry.shape[ref.axis]
    thickness = min(max(wanted, 1), length)
    first = min(max(ref.index - thickness // 2, 0), length - thickness)
    cut = [slice(None)] * 4
    cut[1 + ref.axis] = slice(first, first + thickness)
    image = np.asarray(scan.image)[tuple(cut)]
    geometry = type(scan.geometry)(
        (image.shape[1], image.shape[2], image.shape[3]), scan.geometry.affine
    )
    return Scan(scan.scan_id, image, geometry, scan.modality), first
