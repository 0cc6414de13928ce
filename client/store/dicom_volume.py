"""A stack of DICOM frames as one volume, with whom it is of."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np

from client.store.dicom_pixels import FileContent, read_content
from client.store.dicom_stacks import Arrangement, Frame, Stack, arrange
from client.store.identities import Identity
from client.store.volume_files import (
    DENSEST_PACKING,
    RawVolume,
    check_grid,
    check_image,
    check_shape,
)
from common.errors import BadScanError
from common.scans import Modality


@dataclass(frozen=True)
class DicomScan:
    """A volume in the order (column, row, slice), Hounsfield units in CT.

    `note` tells what was passed over; none if nothing was.
    """

    volume: RawVolume
    modality: Modality
    identity: Identity
    note: str | None


def read_stack(stack: Stack) -> DicomScan:
    """Sorts, checks and reads a stack.

    A slice that is there twice with the very same pixels, as when a folder was copied into itself,
    is read once and noted: nothing is in doubt. With other pixels, nothing tells which is right.

    Raises:
        BadScanError: not one even, straight stack; damaged, of several patients or modalities.
    """
    if stack.problem is not None:
        raise BadScanError(stack.problem)
    try:
        arranged = arrange(stack.frames)
    except BadScanError as error:
        if stack.siblings == 1:
            raise
        raise BadScanError(f"one of the {stack.siblings} stacks of its series: {error}") from None
    rows, columns = stack.frames[0].plane.shape
    shape = check_shape((columns, rows, len(arranged.places)), 1)
    row_mm, column_mm = stack.frames[0].plane.spacing_mm
    check_grid(np.array([row_mm, column_mm]), arranged.affine)
    _check_promise(stack, shape)
    image, num_doubles, found = _read_frames(stack, arranged, shape)
    modality, is_inverted, identity = _check_unity(found)
    if modality == "MR" and is_inverted:
        # Small numbers are bright in MONOCHROME1. Hounsfield units mean the same either way.
        image = image.max() + image.min() - image
    note = f"slices there twice, pixel for pixel, and read once: {num_doubles}"
    return DicomScan(
        RawVolume(check_image(image[None]), arranged.affine),
        modality,
        identity,
        note if num_doubles else None,
    )


def _check_promise(stack: Stack, shape: tuple[int, int, int]) -> None:
    num_bytes = sum(path.stat().st_size for path in {frame.path for frame in stack.frames})
    if int(np.prod(shape, dtype=object)) > num_bytes * DENSEST_PACKING:
        raise BadScanError(
            f"the headers promise {shape} voxels, more than files of {num_bytes} bytes can hold"
        )


def _read_frames(
    stack: Stack, arranged: Arrangement, shape: tuple[int, int, int]
) -> tuple[np.ndarray, int, list[FileContent]]:
    """(column, row, slice) float32; how many doubles were passed over; what the files say."""
    columns, rows, num_slices = shape
    slices = np.empty((num_slices, rows, columns), dtype=np.float32)
    place_of = {frame: n for n, place in enumerate(arranged.places) for frame in place}
    is_filled, found = np.zeros(num_slices, dtype=bool), []
    for path, frames in _by_file(stack).items():
        name = arranged.names[place_of[frames[0]]]
        try:
            content, pixels = read_content(path, [frame.number for frame in frames])
        except BadScanError as error:
            raise BadScanError(f"the slice at {name}: {error}") from None
        found.append(content)
        for frame, one in zip(frames, pixels, strict=True):
            place = place_of[frame]
            if one.shape != (rows, columns):
                raise BadScanError(f"the slice at {name}: truncated or damaged pixels")
            if is_filled[place] and not np.array_equal(slices[place], one):
                raise BadScanError(
                    f"expected one slice at {arranged.names[place]}, found "
                    f"{len(arranged.places[place])} with different pixels: export one only"
                )
            slices[place], is_filled[place] = one, True
    return slices.transpose(2, 1, 0), len(stack.frames) - num_slices, found


def _by_file(stack: Stack) -> dict[Path, list[Frame]]:
    frames_of: dict[Path, list[Frame]] = defaultdict(list)
    for frame in stack.frames:
        frames_of[frame.path].append(frame)
    return frames_of


def _check_unity(found: list[FileContent]) -> tuple[Modality, bool, Identity]:
    if len({content.identity.patient for content in found}) > 1:
        raise BadScanError("the series holds files of more than one patient")
    if len({(content.modality, content.is_inverted) for content in found}) > 1:
        raise BadScanError("the series holds files of several modalities or grey scales")
    return cast("Modality", found[0].modality), found[0].is_inverted, found[0].identity
