"""Reads and writes volumes: NIfTI through nibabel; NRRD, MHA and MHD through SimpleITK.

Headers are checked before any voxel is read, so that a file with an absurd size cannot fill the
memory. Every refusal is a BadScanError with a reason that a person can act on.
"""

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, Integer, UInt8

from client.store.atomic_files import check_room, write_atomically
from client.store.orientation import OriginalGeometry, from_ras
from common.errors import BadScanError

NIFTI = (".nii", ".nii.gz")
META_IMAGE = (".mha", ".mhd")
ITK = (".nrrd", *META_IMAGE)
# An .mhd is two files, which cannot be put in place at once, so none is written.
ITK_WRITTEN = (".nrrd", ".mha")
SUFFIXES = NIFTI + ITK
# The largest clinical volumes (whole-body CT) stay under 2048 voxels an axis and 2^30 in all.
LARGEST_AXIS_VOXELS = 2048
LARGEST_VOLUME_VOXELS = 2**30
GRID_TOLERANCE_MM = 1e-2
# Deflate cannot pack tighter than 1032 to 1, so a header that promises more lies.
DENSEST_PACKING = 1032
CHUNK_BYTES = 2**20
META_HEADER_BYTES = 4096
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class RawVolume:
    """A file's content: array (C, I, J, K) in the file's voxel order; affine to RAS mm."""

    array: Float[np.ndarray, "c i j k"]
    affine: Float[np.ndarray, "4 4"]


def read_volume(paths: Sequence[Path], *, channels: int = 1) -> RawVolume:
    """One image: a file per channel on one grid, or one 4D file with `channels` as its last axis.

    Raises:
        BadScanError: unreadable, not 3D, not finite, constant, without a usable grid, or absurd.
    """
    arrays, affine = [], None
    for path in paths:
        array, own_affine = _read(path, channels if len(paths) == 1 else 1)
        if affine is not None:
            _check_same_grid(arrays[0].shape[1:], affine, array.shape[1:], own_affine, path.name)
        affine = own_affine
        arrays.append(array)
    assert affine is not None  # layouts give at least one path
    image = np.concatenate(arrays).astype(np.float32, copy=False)
    return RawVolume(check_image(image), affine)


def check_image(image: Float[np.ndarray, "c i j k"]) -> Float[np.ndarray, "c i j k"]:
    """Returns the image, if it can be one.

    Raises:
        BadScanError: not finite, or a channel is constant.
    """
    if not np.isfinite(image).all():
        raise BadScanError("expected finite voxels, found NaN or infinity")
    if any(channel.min() == channel.max() for channel in image):
        raise BadScanError("expected an image, found the same value in every voxel")
    return image


def read_label(path: Path, image: RawVolume) -> Integer[np.ndarray, "i j k"]:
    """The label values of a file on the same grid as `image`, as uint8.

    Raises:
        BadScanError: unreadable, another grid, or values that are no labels (0 to 254).
    """
    array, affine = _read(path, 1)
    _check_same_grid(image.array.shape[1:], image.affine, array.shape[1:], affine, "the label")
    label: np.ndarray = _as_labels(array)[0]
    return label


def read_layers(path: Path) -> tuple[UInt8[np.ndarray, "n i j k"], Float[np.ndarray, "4 4"]]:
    """The layers of labels in a painted file, and their affine to RAS mm; one slice is enough.

    Raises:
        BadScanError: unreadable, without a usable grid, or values that are no labels (0 to 254).
    """
    array, affine = _read(path, None)
    return _as_labels(array), affine


def write_volume_like(path: Path, volume: np.ndarray, original: OriginalGeometry) -> None:
    """Writes a RAS (I, J, K) array in the voxel order and affine of the file it came from.

    The format follows the suffix; values and positions come back exact.
    """
    array = np.ascontiguousarray(from_ras(volume, original))
    affine = np.asarray(original.affine)
    if array.shape != original.shape:
        raise BadScanError(
            f"expected a volume of {original.shape} voxels in the file's order, got {array.shape}"
        )
    if not path.name.endswith(NIFTI + ITK_WRITTEN):
        endings = ", ".join(NIFTI + ITK_WRITTEN)
        raise BadScanError(f"expected a file name ending in {endings}, got {path.name}")
    write_atomically(path, lambda unfinished: _save(unfinished, array, affine))


def _as_labels(values: np.ndarray) -> np.ndarray:
    whole = np.isfinite(values) & (values == np.round(values)) & (values >= 0) & (values <= 254)
    if not whole.all():
        odd = values[~whole].flat[0]
        raise BadScanError(f"expected label values 0 to 254, found {odd:g}")
    labels: np.ndarray = values.astype(np.uint8)
    return labels


def _save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    # nibabel and ITK hide that a disk was full, so there must be room before they begin.
    check_room(path.parent, array.nbytes)
    if path.name.endswith(NIFTI):
        nib.save(nib.Nifti1Image(array, affine), path)
    else:
        sitk.WriteImage(_to_itk(array, affine), str(path))


def _read(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    """(C, I, J, K) float32 and the affine of one file.

    Channels none: those of a painted file, which may have several layers, or a single slice.
    """
    if not path.is_file():
        raise BadScanError(f"the file {path.name} is not there")
    if path.stat().st_size == 0:
        raise BadScanError(f"the file {path.name} is empty")
    try:
        if path.name.endswith(NIFTI):
            return _read_nifti(path, channels)
        if path.suffix in ITK:
            return _read_itk(path, channels)
    except BadScanError:
        raise
    # The readers raise what they like on damaged bytes (zlib.error, DTypePromotionError, ...).
    except Exception as error:  # noqa: BLE001
        text = str(error).strip().splitlines()[-1:] or [type(error).__name__]
        reason = f"truncated or damaged ({text[0]})"
        raise BadScanError(f"{path.name} cannot be read: {reason}") from None
    raise BadScanError(f"{path.name}: expected one of {', '.join(SUFFIXES)}")


def _read_nifti(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    shape = tuple(int(n) for n in image.header.get_data_shape())
    # A trailing axis of length one is how some tools write plain 3D.
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    spatial = check_shape(shape, channels)
    affine = np.asarray(image.affine, dtype=float)
    check_grid(_raw_spacing_mm(path, type(image.header)), affine)
    kind = image.get_data_dtype()
    if kind.kind not in "iuf":
        raise BadScanError(f"{path.name}: expected one number per voxel, found {kind}")
    num_bytes = int(np.prod(shape)) * kind.itemsize
    _check_promise(path, num_bytes)
    if path.suffix == ".gz":
        _check_archive(path, image.dataobj.offset + num_bytes)
    # Numbers beyond single precision become infinite, which is refused by the caller.
    with np.errstate(over="ignore"):
        data = np.asarray(image.dataobj, dtype=np.float32).reshape(shape)
    if len(shape) == 3:
        return data.reshape(1, *spatial), affine
    return np.moveaxis(data, -1, 0), affine


def _raw_spacing_mm(path: Path, kind: type[nib.Nifti1Header]) -> np.ndarray:
    """The spacing as the file has it: nibabel's loader turns 0 into 1 and drops signs."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = kind.from_fileobj(file, check=False)
    return np.asarray(header["pixdim"][1:4], dtype=float)


def _check_archive(path: Path, num_bytes: int) -> None:
    """Reads on to the checksum, which stands at the end and which nibabel never reaches."""
    with gzip.open(path) as file:
        while file.tell() <= num_bytes and file.read(CHUNK_BYTES):
            pass


def _read_itk(path: Path, channels: int | None) -> tuple[np.ndarray, np.ndarray]:
    if path.suffix in META_IMAGE:
        _check_meta_header(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    size, components = reader.GetSize(), reader.GetNumberOfComponents()
    shape = (*size, components) if components > 1 else tuple(size)
    check_shape(shape, channels)
    spacing = np.asarray(reader.GetSpacing()[:3], dtype=float)
    direction = np.asarray(reader.GetDirection(), dtype=float).reshape(len(size), len(size))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * spacing
    affine[:3, 3] = reader.GetOrigin()[:3]
    affine = LPS_TO_RAS @ affine
    check_grid(spacing, affine)
    _check_promise(path, int(np.prod(shape)))
    # SimpleITK's arrays run K, J, I (and channels last).
    array = sitk.GetArrayFromImage(reader.Execute()).astype(np.float32)
    if components > 1 and len(size) == 3:
        return np.ascontiguousarray(array.transpose(3, 2, 1, 0)), affine
    if len(size) == 4:
        return np.ascontiguousarray(array.transpose(0, 3, 2, 1)), affine
    return np.ascontiguousarray(array.transpose(2, 1, 0))[None], affine


def _check_meta_header(path: Path) -> None:
    """ITK trusts two lines of a MetaImage so far that wrong ones end the whole process."""
    with path.open("rb") as file:
        lines = file.read(META_HEADER_BYTES).decode("latin-1")
    dimensions = re.search(r"^NDims *= *(\S+)", lines, re.MULTILINE)
    data = re.search(r"^ElementDataFile *= *(.+?)\s*$", lines, re.MULTILINE)
    if dimensions is None or dimensions[1] not in ("2", "3", "4"):
        raise BadScanError(f"{path.name} cannot be read: expected a line NDims = 3 in its header")
    name = data[1] if data is not None else ""
    is_beside = path.suffix == ".mhd" and name == Path(name).name and (path.parent / name).is_file()
    if name != "LOCAL" and not is_beside:
        raise BadScanError(f"{path.name} cannot be read: its voxels are not in it nor beside it")


def _to_itk(array: np.ndarray, affine: np.ndarray) -> sitk.Image:
    lps = LPS_TO_RAS @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).flatten().tolist())
    return image


def check_shape(shape: tuple[int, ...], channels: int | None) -> tuple[int, int, int]:
    """The spatial shape, if a header may promise it; channels none: any, and flat is no fault.

    Raises:
        BadScanError: not 3D, other channels, or absurdly large.
    """
    wanted = "a 3D volume" if channels in (1, None) else f"a volume of {channels} channels"
    if len(shape) == 4 and channels is not None and (channels == 1 or shape[3] != channels):
        raise BadScanError(f"expected {wanted}, found 4D of shape {shape}")
    if len(shape) not in (3, 4) or (len(shape) == 3 and (channels or 1) > 1):
        raise BadScanError(f"expected {wanted}, found {len(shape)}D of shape {shape}")
    if min(shape) < 1:
        raise BadScanError(f"expected at least one voxel along each axis, found {shape}")
    if channels is not None and sum(n > 1 for n in shape[:3]) < 3:
        raise BadScanError(f"expected {wanted}, found 2D of shape {shape}")
    num_voxels = int(np.prod(shape, dtype=object))
    if max(shape) > LARGEST_AXIS_VOXELS or num_voxels > LARGEST_VOLUME_VOXELS:
        raise BadScanError(
            f"the header promises {shape} voxels; at most {LARGEST_AXIS_VOXELS} along an axis and "
            f"{LARGEST_VOLUME_VOXELS} in all are read"
        )
    return (shape[0], shape[1], shape[2])


def _check_promise(path: Path, num_bytes: int) -> None:
    held = path.stat().st_size * DENSEST_PACKING
    if path.suffix != ".mhd" and num_bytes > held:
        raise BadScanError(
            f"the header of {path.name} promises {num_bytes} bytes, more than the file can hold"
        )


def check_grid(spacing_mm: np.ndarray, affine: np.ndarray) -> None:
    """Refuses a grid that no volume lies on.

    Raises:
        BadScanError: a spacing is not positive, or the affine is flat or not finite.
    """
    if not np.isfinite(spacing_mm).all() or (spacing_mm <= 0).any():
        raise BadScanError(f"expected a positive voxel spacing, found {spacing_mm.tolist()} mm")
    if not np.isfinite(affine).all() or _is_flat(affine[:3, :3]):
        raise BadScanError("expected an invertible affine, found one that is flat or not finite")


def grid_tolerance_mm(affine: np.ndarray) -> float:
    """How far apart two grids may lie that are written down differently."""
    spacing_mm = float(np.sqrt((affine[:3, :3] ** 2).sum(axis=0)).min())
    return max(GRID_TOLERANCE_MM, 0.01 * spacing_mm)


def _is_flat(linear: np.ndarray) -> bool:
    """Whether the voxel's axes lie (nearly) in a plane: they would have no nearest RAS order."""
    with np.errstate(over="ignore", invalid="ignore"):
        voxel_mm3 = abs(np.linalg.det(linear))
        box_mm3 = np.sqrt((linear**2).sum(axis=0)).prod()
    return not max(1e-9, 1e-3 * box_mm3) <= voxel_mm3 < np.inf


def _check_same_grid(
    shape: Sequence[int],
    affine: np.ndarray,
    other_shape: Sequence[int],
    other_affine: np.ndarray,
    name: str,
) -> None:
    if tuple(shape) != tuple(other_shape):
        raise BadScanError(f"{name} has shape {tuple(other_shape)}, the image {tuple(shape)}")
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1], indexing="ij")).reshape(4, -1)
    apart_mm = float(np.abs((affine - other_affine) @ corners).max())
    if apart_mm > grid_tolerance_mm(affine):
        raise BadScanError(f"{name} lies up to {apart_mm:.3g} mm away from the image")
