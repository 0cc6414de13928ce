"""Good files come in exactly; every kind of bad file is refused with its reason."""

import gzip
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from client.store.orientation import OriginalGeometry
from client.store.volume_files import read_label, read_volume, write_volume_like
from common.errors import BadScanError

SaveNifti = Callable[..., Path]
IMAGE = np.random.default_rng(0).integers(0, 900, size=(5, 6, 7)).astype(np.int16)
AFFINE = np.array([[-0.7, 0, 0, 30], [0, 0, 2.5, -40], [0, -0.7, 0, 12], [0, 0, 0, 1.0]])


def _break_header(path: Path, start: int, values: list[float] | list[int], kind: str) -> None:
    """Overwrites part of a NIfTI header (dim at byte 40, pixdim at 76, srow_x at 280)."""
    data = bytearray(path.read_bytes())
    packed = np.array(values, dtype=kind).tobytes()
    data[start : start + len(packed)] = packed
    path.write_bytes(bytes(data))


def _save_itk(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Path:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))
    return path


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_nifti_comes_in_file_order(tmp_path: Path, save_nifti: SaveNifti, suffix: str) -> None:
    volume = read_volume([save_nifti(tmp_path / f"v{suffix}", IMAGE, AFFINE)])
    np.testing.assert_array_equal(volume.array, IMAGE[None])
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
def test_itk_formats_agree_with_nifti(tmp_path: Path, save_nifti: SaveNifti, suffix: str) -> None:
    nifti = save_nifti(tmp_path / "v.nii.gz", IMAGE, AFFINE)
    path = tmp_path / f"v{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    volume = read_volume([path])
    np.testing.assert_array_equal(volume.array, IMAGE[None])
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)


def test_several_files_are_several_channels(tmp_path: Path, save_nifti: SaveNifti) -> None:
    paths = [save_nifti(tmp_path / f"c{n}.nii", IMAGE + n) for n in range(2)]
    np.testing.assert_array_equal(read_volume(paths, channels=2).array, [IMAGE, IMAGE + 1])


def test_channels_on_different_grids_are_refused(tmp_path: Path, save_nifti: SaveNifti) -> None:
    moved = np.diag([1.0, 1.0, 1.2, 1.0])
    paths = [save_nifti(tmp_path / "a.nii", IMAGE), save_nifti(tmp_path / "b.nii", IMAGE, moved)]
    with pytest.raises(BadScanError, match=r"b\.nii lies up to 1\.2 mm away"):
        read_volume(paths, channels=2)


def test_4d_is_read_where_it_was_announced(tmp_path: Path, save_nifti: SaveNifti) -> None:
    path = save_nifti(tmp_path / "v.nii", np.stack([IMAGE, IMAGE * 2], axis=-1))
    np.testing.assert_array_equal(read_volume([path], channels=2).array, [IMAGE, IMAGE * 2])
    for channels in (1, 3):
        with pytest.raises(BadScanError, match="found 4D"):
            read_volume([path], channels=channels)


def test_a_last_axis_of_one_is_3d(tmp_path: Path, save_nifti: SaveNifti) -> None:
    path = save_nifti(tmp_path / "v.nii", IMAGE[..., None])
    np.testing.assert_array_equal(read_volume([path]).array, IMAGE[None])


@pytest.mark.parametrize("shape", [(6, 7), (6, 7, 1)])
def test_2d_is_refused(tmp_path: Path, save_nifti: SaveNifti, shape: tuple[int, ...]) -> None:
    path = save_nifti(tmp_path / "v.nii", np.arange(42, dtype=np.int16).reshape(shape))
    with pytest.raises(BadScanError, match="found 2D"):
        read_volume([path])


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
def test_odd_voxels_are_refused(tmp_path: Path, save_nifti: SaveNifti, odd: float) -> None:
    image = IMAGE.astype(np.float32)
    image[0, 0, 0] = odd
    with pytest.raises(BadScanError, match="NaN or infinity"):
        read_volume([save_nifti(tmp_path / "v.nii", image)])


def test_values_beyond_single_precision_are_refused(tmp_path: Path, save_nifti: SaveNifti) -> None:
    image = IMAGE.astype(np.float64)
    image[0, 0, 0] = 1e300
    with pytest.raises(BadScanError, match=r"NaN or infinity|cannot be read"):
        read_volume([save_nifti(tmp_path / "v.nii", image)])


def test_a_constant_image_is_refused(tmp_path: Path, save_nifti: SaveNifti) -> None:
    with pytest.raises(BadScanError, match="same value in every voxel"):
        read_volume([save_nifti(tmp_path / "v.nii", np.full((4, 4, 4), 3, dtype=np.uint8))])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, suffix: str, share: float) -> None:
    noise = np.random.default_rng(1).normal(size=(12, 12, 12)).astype(np.float32)
    path = _save_itk(tmp_path / f"v{suffix}", noise)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(BadScanError, match=r"v\.\S+ (is empty|cannot be read)|promises"):
        read_volume([path])


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"v{suffix}"
    path.write_bytes(b"GIF89a, or so it says" * 50)
    with pytest.raises(BadScanError, match="cannot be read"):
        read_volume([path])


@pytest.mark.parametrize("place", [0.1, 0.3, 0.6, 0.95])
def test_a_damaged_archive_is_refused(tmp_path: Path, save_nifti: SaveNifti, place: float) -> None:
    noise = np.random.default_rng(2).normal(size=(9, 9, 9)).astype(np.float32)
    path = save_nifti(tmp_path / "v.nii.gz", noise)
    data = bytearray(path.read_bytes())
    start = int(place * len(data))
    data[start : start + 40] = b"\xff" * 40
    path.write_bytes(bytes(data))
    with pytest.raises(BadScanError, match=r"cannot be read|promises|expected"):
        read_volume([path])


@pytest.mark.filterwarnings("default")  # SimpleITK's and NumPy's, on the way to the refusal
@pytest.mark.parametrize(
    "kind",
    [np.complex64, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])],
    ids=["complex", "rgb"],
)
def test_voxels_that_are_no_numbers_are_refused(tmp_path: Path, kind: np.dtype) -> None:
    image = nib.Nifti1Image(np.zeros((4, 4, 4), dtype=kind), np.eye(4))
    nib.save(image, tmp_path / "v.nii")
    with pytest.raises(BadScanError, match=r"v\.nii"):
        read_volume([tmp_path / "v.nii"])


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.nii").mkdir()
    for name in ("missing.nii", "folder.nii"):
        with pytest.raises(BadScanError, match=f"{name} is not there"):
            read_volume([tmp_path / name])


def test_an_unknown_suffix_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.png").write_bytes(b"png")
    with pytest.raises(BadScanError, match=r"expected one of \.nii"):
        read_volume([tmp_path / "v.png"])


@pytest.mark.parametrize("spacing", [0.0, -2.0, np.nan, np.inf])
def test_an_unusable_spacing_is_refused(
    tmp_path: Path, save_nifti: SaveNifti, spacing: float
) -> None:
    path = save_nifti(tmp_path / "v.nii", IMAGE)
    _break_header(path, 80, [spacing], "<f4")
    with pytest.raises(BadScanError, match=r"spacing|affine"):
        read_volume([path])


@pytest.mark.parametrize("row", [[0, 0, 0, 0], [0, 1, 0, 0], [np.nan, 0, 0, 0]])
def test_a_singular_affine_is_refused(
    tmp_path: Path, save_nifti: SaveNifti, row: list[float]
) -> None:
    path = save_nifti(tmp_path / "v.nii", IMAGE)
    _break_header(path, 280, row, "<f4")
    with pytest.raises(BadScanError, match="affine"):
        read_volume([path])


@pytest.mark.parametrize(
    "dim", [[32000, 32000, 32000], [2049, 6, 7], [2000, 2000, 2000], [0, 6, 7], [-5, 6, 7]]
)
def test_an_absurd_size_is_refused_before_reading(
    tmp_path: Path, save_nifti: SaveNifti, dim: list[int]
) -> None:
    path = save_nifti(tmp_path / "v.nii", IMAGE)
    _break_header(path, 42, dim, "<i2")
    with pytest.raises(BadScanError, match=r"promises|at least one voxel"):
        read_volume([path])


@pytest.mark.parametrize("packed", [False, True])
def test_more_voxels_than_the_file_can_hold_are_refused(
    tmp_path: Path, save_nifti: SaveNifti, packed: bool
) -> None:
    path = save_nifti(tmp_path / "v.nii", IMAGE)
    _break_header(path, 42, [1000, 1000, 900], "<i2")
    if packed:
        packed_path = tmp_path / "v.nii.gz"
        packed_path.write_bytes(gzip.compress(path.read_bytes()))
        path = packed_path
    with pytest.raises(BadScanError, match="promises"):
        read_volume([path])


def test_an_absurd_nrrd_is_refused_before_reading(tmp_path: Path) -> None:
    path = tmp_path / "v.nrrd"
    path.write_bytes(
        b"NRRD0004\ntype: short\ndimension: 3\nspace: left-posterior-superior\n"
        b"sizes: 30000 30000 30000\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n"
        b"endian: little\nencoding: raw\nspace origin: (0,0,0)\n\n0000"
    )
    with pytest.raises(BadScanError, match="promises"):
        read_volume([path])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.float64])
def test_labels_of_any_number_type_come_in(
    tmp_path: Path, save_nifti: SaveNifti, kind: type
) -> None:
    values = (IMAGE % 3).astype(kind)
    values[0, 0, 0] = 254 if kind != np.uint8 else 200
    image = read_volume([save_nifti(tmp_path / "i.nii", IMAGE)])
    label = read_label(save_nifti(tmp_path / "l.nii", values), image)
    assert label.dtype == np.uint8
    np.testing.assert_array_equal(label, values)


@pytest.mark.parametrize("odd", [0.5, -1, 255, 70000, np.nan])
def test_odd_label_values_are_refused(tmp_path: Path, save_nifti: SaveNifti, odd: float) -> None:
    values = np.zeros(IMAGE.shape, dtype=np.float32)
    values[1, 2, 3] = odd
    image = read_volume([save_nifti(tmp_path / "i.nii", IMAGE)])
    with pytest.raises(BadScanError, match=f"label values 0 to 254, found {odd:g}"):
        read_label(save_nifti(tmp_path / "l.nii", values), image)


def test_a_label_of_another_shape_is_refused(tmp_path: Path, save_nifti: SaveNifti) -> None:
    image = read_volume([save_nifti(tmp_path / "i.nii", IMAGE)])
    label = save_nifti(tmp_path / "l.nii", np.zeros((5, 6, 8), dtype=np.uint8))
    with pytest.raises(BadScanError, match=r"shape \(5, 6, 8\), the image \(5, 6, 7\)"):
        read_label(label, image)


def test_a_label_elsewhere_is_refused_in_mm(tmp_path: Path, save_nifti: SaveNifti) -> None:
    image = read_volume([save_nifti(tmp_path / "i.nii", IMAGE, AFFINE)])
    moved = AFFINE.copy()
    moved[1, 3] += 3
    label = save_nifti(tmp_path / "l.nii", np.zeros(IMAGE.shape, dtype=np.uint8), moved)
    with pytest.raises(BadScanError, match="up to 3 mm away"):
        read_label(label, image)


def test_a_tiny_difference_of_direction_is_fine(tmp_path: Path, save_nifti: SaveNifti) -> None:
    image = read_volume([save_nifti(tmp_path / "i.nii", IMAGE, AFFINE)])
    turned = AFFINE + 1e-5
    turned[3] = [0, 0, 0, 1]
    label = save_nifti(tmp_path / "l.nii", (IMAGE % 2).astype(np.uint8), turned)
    np.testing.assert_array_equal(read_label(label, image), IMAGE % 2)


def test_a_volume_of_another_shape_is_not_written(tmp_path: Path) -> None:
    original = OriginalGeometry((5, 6, 7), tuple(map(tuple, np.eye(4).tolist())))
    with pytest.raises(BadScanError, match=r"\(5, 6, 7\)"):
        write_volume_like(tmp_path / "v.nii.gz", np.zeros((7, 6, 5), dtype=np.uint8), original)


@pytest.mark.parametrize("name", ["v.png", "v.mhd"])
def test_only_single_files_of_known_kinds_are_written(tmp_path: Path, name: str) -> None:
    original = OriginalGeometry((5, 6, 7), tuple(map(tuple, np.eye(4).tolist())))
    with pytest.raises(BadScanError, match="expected a file name ending in"):
        write_volume_like(tmp_path / name, IMAGE, original)
