"""Voxels and places of DICOM stacks are those that another reader sees; the rest is refused."""

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)
from scipy.spatial.transform import Rotation
from small_dicom import rewrite, write_enhanced, write_series

from client.store.dicom_series import find_series
from client.store.dicom_volume import DicomScan, read_stack
from common.errors import BadScanError

STORED = np.random.default_rng(0).integers(0, 3000, size=(6, 9, 7)).astype(np.int16)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
OBLIQUE = Rotation.from_euler("zyx", [20, -35, 50], degrees=True).as_matrix()


def _read(folder: Path) -> DicomScan:
    (found,) = find_series(folder)
    return read_stack(found.stack)


def _values(scan: DicomScan) -> np.ndarray:
    """Back to (slice, row, column)."""
    return scan.volume.array[0].transpose(2, 1, 0)


@pytest.mark.parametrize("directions", [np.eye(3), np.diag([1.0, -1, -1]), OBLIQUE])
def test_another_reader_sees_the_same_voxels_at_the_same_places(
    tmp_path: Path, directions: np.ndarray
) -> None:
    def rescale(dataset: Dataset, number: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 0.5 + number, -1024

    paths = write_series(
        tmp_path / "deep" / "tree",
        STORED,
        spacing_mm=(2.5, 0.75, 0.5),
        directions=directions,
        origin_mm=(-31.5, 12.25, 88.0),
        modality="CT",
        change=rescale,
        shuffled_by=3,
    )
    scan = _read(tmp_path)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(paths[0].parent)))
    other = reader.Execute()
    np.testing.assert_allclose(_values(scan), sitk.GetArrayFromImage(other), atol=1e-3)
    wanted = STORED * (0.5 + np.arange(6))[:, None, None] - 1024
    np.testing.assert_array_equal(_values(scan), wanted)
    for index in [(0, 0, 0), (6, 0, 0), (0, 8, 0), (0, 0, 5), (6, 8, 5)]:
        place = scan.volume.affine @ [*index, 1]
        lps = other.TransformIndexToPhysicalPoint(index)
        np.testing.assert_allclose((LPS_TO_RAS @ place)[:3], lps, atol=1e-4)
    assert scan.modality == "CT"


def test_places_are_exact(tmp_path: Path) -> None:
    write_series(tmp_path, STORED, spacing_mm=(3.0, 0.6875, 0.5), origin_mm=(10.0, -20.0, 30.0))
    affine = [[-0.5, 0, 0, -10], [0, -0.6875, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]]
    np.testing.assert_array_equal(_read(tmp_path).volume.affine, affine)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_other_byte_orders_are_read(tmp_path: Path, syntax: str) -> None:
    def turn(dataset: Dataset, _: int) -> None:
        dataset.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = np.frombuffer(dataset.PixelData, "<i2").astype(">i2").tobytes()
        dataset["PixelData"].VR = "OW"

    write_series(tmp_path, STORED, change=turn)
    np.testing.assert_array_equal(_values(_read(tmp_path)), STORED)


@pytest.mark.parametrize("is_implicit", [True, False])
def test_files_without_a_preamble_are_read(tmp_path: Path, is_implicit: bool) -> None:
    for path in write_series(tmp_path, STORED):
        dataset = pydicom.dcmread(path)
        dataset.file_meta.clear()
        dataset.preamble = None
        dataset.save_as(path, implicit_vr=is_implicit, little_endian=True, overwrite=True)
        assert path.read_bytes()[:2] == b"\x08\x00"
    np.testing.assert_array_equal(_values(_read(tmp_path)), STORED)


def test_in_mr_small_numbers_that_are_bright_are_turned_round(tmp_path: Path) -> None:
    def invert(dataset: Dataset, _: int) -> None:
        dataset.PhotometricInterpretation = "MONOCHROME1"

    write_series(tmp_path, STORED, change=invert)
    wanted = int(STORED.max()) + int(STORED.min()) - STORED
    np.testing.assert_array_equal(_values(_read(tmp_path)), wanted)


def test_in_ct_hounsfield_units_stay_whatever_is_bright(tmp_path: Path) -> None:
    def invert(dataset: Dataset, _: int) -> None:
        dataset.PhotometricInterpretation, dataset.RescaleIntercept = "MONOCHROME1", -1000

    write_series(tmp_path, STORED, modality="CT", change=invert)
    np.testing.assert_array_equal(_values(_read(tmp_path)), STORED - 1000)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless])
def test_packed_pixels_are_unpacked(tmp_path: Path, syntax: str) -> None:
    write_series(tmp_path, STORED.astype(np.uint16), change=lambda d, _: d.compress(syntax))
    np.testing.assert_array_equal(_values(_read(tmp_path)), STORED)


def test_jpeg_2000_is_unpacked(tmp_path: Path) -> None:
    def pack(dataset: Dataset, number: int) -> None:
        stream = BytesIO()
        Image.fromarray(STORED[number].astype(np.uint16)).save(stream, "JPEG2000")
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEG2000Lossless

    write_series(tmp_path, STORED.astype(np.uint16), change=pack)
    np.testing.assert_array_equal(_values(_read(tmp_path)), STORED)


def test_lossy_jpeg_is_unpacked(tmp_path: Path) -> None:
    rows, columns = np.indices((16, 16))
    smooth = np.stack([10 * n + 5 * rows + 3 * columns for n in range(4)]).astype(np.uint8)

    def pack(dataset: Dataset, number: int) -> None:
        stream = BytesIO()
        Image.fromarray(smooth[number]).save(stream, "JPEG", quality=95)
        dataset.PixelData = encapsulate([stream.getvalue()])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit

    write_series(tmp_path, smooth, change=pack)
    np.testing.assert_allclose(_values(_read(tmp_path)), smooth, atol=3)


def test_enhanced_files_hold_many_slices_in_any_order(tmp_path: Path) -> None:
    order = [3, 0, 5, 1, 4, 2]
    heights = [2.0 * number - 7 for number in order]
    slopes = [1.0 + number for number in order]
    write_enhanced(tmp_path / "one", STORED[order], heights, slopes=slopes)
    scan = _read(tmp_path)
    wanted = STORED * (1.0 + np.arange(6))[:, None, None] + 1
    np.testing.assert_array_equal(_values(scan), wanted)
    affine = [[-1, 0, 0, 5], [0, -2, 0, 6], [0, 0, 2, -7], [0, 0, 0, 1]]
    np.testing.assert_array_equal(scan.volume.affine, affine)


def test_an_enhanced_file_of_two_echoes_comes_apart(tmp_path: Path) -> None:
    def tell_apart(dataset: Dataset) -> None:
        for number, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            echo = Dataset()
            echo.EffectiveEchoTime = 2.0 if number < 3 else 90.0
            group.MREchoSequence = [echo]

    write_enhanced(tmp_path / "one", STORED, [0, 1, 2, 0, 1, 2], slopes=[1] * 6, change=tell_apart)
    stacks = find_series(tmp_path)
    assert [stack.name[-2:] for stack in stacks] == ["-1", "-2"]
    first, second = (_values(read_stack(stack.stack)) for stack in stacks)
    np.testing.assert_array_equal(first, STORED[:3] + 1)
    np.testing.assert_array_equal(second, STORED[3:] + 1)


def test_a_slice_copied_pixel_for_pixel_is_read_once_and_noted(tmp_path: Path) -> None:
    paths = write_series(tmp_path, STORED)
    (tmp_path / "again").mkdir()
    for number in (1, 4):
        (tmp_path / "again" / f"{number}").write_bytes(paths[number].read_bytes())
    scan = _read(tmp_path)
    np.testing.assert_array_equal(_values(scan), STORED)
    assert scan.note == "slices there twice, pixel for pixel, and read once: 2"


def test_two_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    write_series(tmp_path / "a", STORED, uid="1.2.3")
    write_series(tmp_path / "b", STORED[2:3] + 1, origin_mm=(0, 0, 2), uid="1.2.3")
    with pytest.raises(BadScanError, match=r"one slice at z = 2\.0 mm, found 2 with different"):
        _read(tmp_path)


def _mosaic(dataset: Dataset) -> None:
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]


def _coloured(dataset: Dataset) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 3, "RGB"


def _without(keyword: str) -> Callable[[Dataset], None]:
    return lambda dataset: delattr(dataset, keyword)


def _with(**values: object) -> Callable[[Dataset], None]:
    return lambda dataset: dataset.update(values)


BAD: dict[str, tuple[Callable[[Dataset], None], str]] = {
    "position": (_without("ImagePositionPatient"), "1 of its 6 files: ImagePositionPatient is mis"),
    "direction": (_without("ImageOrientationPatient"), "ImageOrientationPatient is missing"),
    "spacing": (_without("PixelSpacing"), "PixelSpacing is missing"),
    "no-rows": (_without("Rows"), "1 of its 6 files: is truncated or damaged"),
    "no-pixels": (_without("PixelData"), r"slice at z = 2\.0 mm: truncated or damaged pixels"),
    "skewed": (_with(ImageOrientationPatient=[1, 0, 0, 1, 0, 0]), "unit vectors at a right angle"),
    "short": (
        _with(ImagePositionPatient=[1, 2]),
        "ImagePositionPatient: expected 3 usable numbers",
    ),
    "far": (_with(ImagePositionPatient=[1, 2, 1e30]), "expected 3 usable numbers"),
    "flat": (_with(PixelSpacing=[0, 1]), r"PixelSpacing: expected positive numbers, found 0\.0"),
    "giant": (_with(Rows=60000), "Rows: expected a number from 1 to 2048"),
    "frames": (_with(NumberOfFrames=2), "holds 2 frames but not the place of each"),
    "mosaic": (_mosaic, "is a mosaic of slices"),
    "colours": (_coloured, r"found colours \(MR Image Storage\)"),
    "pet": (_with(Modality="PT"), r"expected CT or MR, found the modality PT \(MR Image"),
    "name": (_with(Modality="DOE JOHN"), "found the modality unknown"),
    "ct": (_with(Modality="CT"), "several modalities or grey scales"),
    "inverted": (_with(PhotometricInterpretation="MONOCHROME1"), "several modalities or grey"),
    "palette": (_with(PhotometricInterpretation="PALETTE COLOR"), "out of MONOCHROME1, MONOCHROME"),
    "patient": (_with(PatientID="another"), "files of more than one patient"),
    "slope": (_with(RescaleSlope=0, RescaleIntercept=0), "RescaleSlope is 0"),
    "infinite": (_with(RescaleSlope="1e300", RescaleIntercept=0), "found NaN or infinity"),
    "table": (_with(ModalityLUTSequence=[Dataset()]), "ModalityLUTSequence"),
    "shorter": (_with(PixelData=b"\0" * 40), r"z = 2\.0 mm: truncated or damaged pixels"),
    "moved": (_with(ImagePositionPatient=[0, 0, 2.4]), r"found 1\.40 mm between 1\.0 and 2\.4"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_bad_slice_is_named(tmp_path: Path, name: str) -> None:
    spoil, reason = BAD[name]
    rewrite(write_series(tmp_path, STORED)[2], spoil)
    with pytest.raises(BadScanError, match=reason):
        _read(tmp_path)


def test_a_packing_that_is_not_read_is_named(tmp_path: Path) -> None:
    def pack(dataset: Dataset, _: int) -> None:
        dataset.PixelData = encapsulate([b"\xff\xd8 no stream"])
        dataset["PixelData"].VR = "OB"
        dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1

    write_series(tmp_path, STORED, change=pack)
    with pytest.raises(BadScanError, match=r"packed as JPEG Lossless.*which is not read: export"):
        _read(tmp_path)


def test_a_stream_that_promises_more_than_its_header_is_not_unpacked(tmp_path: Path) -> None:
    """JPEG-LS believes its stream: this one would take 8 GB."""

    def pack(dataset: Dataset, _: int) -> None:
        dataset.compress(JPEGLSLossless)
        stream = bytearray(dataset.PixelData)
        at = stream.index(b"\xff\xf7")
        stream[at + 5 : at + 9] = b"\xff\xff\xff\xff"
        dataset.PixelData = bytes(stream)

    write_series(tmp_path, STORED.astype(np.uint16), change=pack)
    with pytest.raises(BadScanError, match="or a kind of JPEG-LS Lossless Image Compression that"):
        _read(tmp_path)


def test_a_file_deflated_as_a_whole_is_not_unpacked(tmp_path: Path) -> None:
    write_series(tmp_path, STORED)
    path = tmp_path / "IM0003"
    rewrite(
        path, lambda d: setattr(d.file_meta, "TransferSyntaxUID", DeflatedExplicitVRLittleEndian)
    )
    with pytest.raises(BadScanError, match="1 of its 6 files: is deflated as a whole"):
        _read(tmp_path)


def test_headers_that_promise_more_than_the_files_hold_are_refused(tmp_path: Path) -> None:
    def lie(dataset: Dataset, _: int) -> None:
        dataset.Rows = dataset.Columns = 2048
        dataset.PixelData = b"\0\0"

    write_series(tmp_path, STORED, change=lie)
    with pytest.raises(BadScanError, match=r"more than files of .* bytes can hold"):
        _read(tmp_path)


def test_a_constant_volume_is_no_image(tmp_path: Path) -> None:
    write_series(tmp_path, np.zeros_like(STORED))
    with pytest.raises(BadScanError, match="the same value in every voxel"):
        _read(tmp_path)


def test_a_part_of_a_series_says_so(tmp_path: Path) -> None:
    write_series(tmp_path / "a", STORED, uid="1.2.3")
    write_series(tmp_path / "b", STORED[:2], uid="1.2.3", directions=OBLIQUE)
    whole, part = sorted(find_series(tmp_path), key=lambda found: -len(found.stack.frames))
    assert read_stack(whole.stack).volume.array.shape == (1, 7, 9, 6)
    with pytest.raises(
        BadScanError, match="one of the 2 stacks of its series: expected at least 3"
    ):
        read_stack(part.stack)
