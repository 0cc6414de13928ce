"""Files painted in other programs: what is painted, under which names, and where.

3D Slicer and ITK-SNAP write NIfTI, NRRD or MHA with a number per voxel; a Slicer segmentation
(.seg.nrrd) has names, codes and layers besides.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from jaxtyping import Float, UInt8

from client.store.volume_files import read_layers
from common.errors import BadScanError

LARGEST_VALUE = 254
SEGMENT = re.compile(r"Segment(\d+)_(Name|LabelValue|Layer|Tags)")
# Category, then type, each as scheme^code^meaning.
SNOMED_TYPE = re.compile(r"TerminologyEntry:[^~|]*~[^~|]*~SCT\^(\d+)\^")


@dataclass(frozen=True)
class Segment:
    """One thing that may be painted.

    Attributes:
        value: its number, by which its voxels are known in its layer.
        layer: of the file; layers may overlap.
        name: as the other program has it; none if the file has no names.
        snomed: code of its type; none if the file has none.
    """

    value: int
    layer: int
    name: str | None = None
    snomed: str | None = None


@dataclass(frozen=True)
class Block:
    """Painted voxels: (I, J, K) of numbers, in which layer they are, and their affine to RAS mm."""

    layer: int
    values: UInt8[np.ndarray, "i j k"]
    affine: Float[np.ndarray, "4 4"]


@dataclass(frozen=True)
class PaintedFile:
    """All that is painted in a file, and the patient's number where it has one."""

    segments: tuple[Segment, ...]
    blocks: tuple[Block, ...]
    patient: str = ""


def read_painted_volume(path: Path) -> PaintedFile:
    """A NIfTI, NRRD or MHA file of label numbers.

    Raises:
        BadScanError: unreadable, or its numbers are no labels.
    """
    layers, affine = read_layers(path)
    named = list(_named_segments(path)) if path.name.endswith(".nrrd") else []
    if len(layers) > 1 and not named:
        raise BadScanError(
            f"expected one number per voxel, found {len(layers)}: only a Slicer segmentation "
            "(.seg.nrrd) may have layers"
        )
    known = {(segment.layer, segment.value) for segment in named}
    found = {(n, int(v)) for n, layer in enumerate(layers) for v in np.unique(layer) if v}
    unnamed = [Segment(value, layer) for layer, value in sorted(found - known)]
    blocks = tuple(Block(number, layer, affine) for number, layer in enumerate(layers))
    return PaintedFile((*named, *unnamed), blocks)


def _named_segments(path: Path) -> Iterator[Segment]:
    """The segments that a .seg.nrrd describes in its header."""
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    fields: dict[int, dict[str, str]] = {}
    for key in reader.GetMetaDataKeys():
        match = SEGMENT.fullmatch(key)
        if match is not None:
            fields.setdefault(int(match[1]), {})[match[2]] = reader.GetMetaData(key)
    for number, field in sorted(fields.items()):
        try:
            value, layer = int(field.get("LabelValue", "1")), int(field.get("Layer", "0"))
        except ValueError:
            raise BadScanError(
                f"segment {number}: expected whole numbers as its label value and layer"
            ) from None
        if not 1 <= value <= LARGEST_VALUE:
            raise BadScanError(f"segment {number}: expected a label value 1 to {LARGEST_VALUE}")
        code = SNOMED_TYPE.search(field.get("Tags", ""))
        yield Segment(value, layer, field.get("Name"), code[1] if code is not None else None)
