"""Real bad files of every kind are set aside with a telling reason; the good ones come in."""

import gzip
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from client.store.arrays import load_array
from client.store.ingest import ingest_cases, read_case
from client.store.layouts import Case, Dataset, find_cases
from client.store.scans import count_quarantined, list_scans
from client.store.store import Store
from client.store.volume_files import read_volume
from common.errors import BadScanError
from common.plan import Task

ROOT = Path(__file__).parents[3]
SHAPE = (6, 7, 5)
NOISE = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
LABEL = np.random.default_rng(1).integers(0, 3, size=SHAPE).astype(np.uint8)
DIM, PIXDIM, SROW_X = 42, 80, 280  # bytes of the NIfTI-1 header
Spoil = Callable[[Path, Path], None]


def _save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def _good(folder: Path, name: str) -> tuple[Path, Path]:
    image, label = folder / "images" / f"{name}.nii.gz", folder / "labels" / f"{name}.nii.gz"
    for path, array in ((image, NOISE + len(name)), (label, LABEL)):
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, array)
    return image, label


def _patch(path: Path, at: int, kind: str, *values: float) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    struct.pack_into(kind, data, at, *values)
    path.write_bytes(gzip.compress(bytes(data)))


def _cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


def _shift(label: Path) -> None:
    affine = np.eye(4)
    affine[1, 3] = 1
    _save(label, LABEL, affine)


def _odd_voxel(value: float) -> np.ndarray:
    array = NOISE.copy()
    array[1, 2, 3] = value
    return array


def _cut_nrrd(image: Path) -> None:
    image.unlink()
    path = image.with_name(image.name.replace(".nii.gz", ".nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path))
    _cut(path, 0.5)


BAD: dict[str, tuple[Spoil, str]] = {
    "truncated": (lambda i, _: _cut(i, 0.6), "truncated or damaged"),
    "truncated-nrrd": (lambda i, _: _cut_nrrd(i), "truncated or damaged"),
    "truncated-label": (lambda _, la: _cut(la, 0.6), "truncated or damaged"),
    "empty": (lambda i, _: i.write_bytes(b"") and None, "is empty"),
    "text": (lambda i, _: i.write_text("not a scan\n" * 99) and None, "cannot be read"),
    "nan": (lambda i, _: _save(i, _odd_voxel(np.nan)), "found NaN or infinity"),
    "flat": (lambda i, _: _save(i, NOISE[:, :, 0]), "expected a 3D volume, found 2D"),
    "series": (lambda i, _: _save(i, np.stack([NOISE] * 2, -1)), "expected a 3D volume, found 4D"),
    "no-spacing": (lambda i, _: _patch(i, PIXDIM, "<f", 0.0), "positive voxel spacing"),
    "singular": (lambda i, _: _patch(i, SROW_X, "<4f", 0, 0, 0, 0), "invertible affine"),
    "other-shape": (lambda _, la: _save(la, LABEL[:-1]), r"label has shape (5, 7, 5), the image"),
    "shifted": (lambda _, la: _shift(la), "the label lies up to 1 mm away"),
    "fraction": (lambda _, la: _save(la, _odd_voxel(0) * 0 + 1.5), "label values 0 to 254"),
    "absurd": (lambda i, _: _patch(i, DIM, "<3h", 32767, 32767, 32767), "the header promises"),
    "promises": (lambda i, _: _patch(i, DIM, "<3h", 900, 900, 900), "more than the file can hold"),
    "constant": (lambda i, _: _save(i, NOISE * 0 + 3), "same value in every voxel"),
    "unnamed": (lambda _, la: _save(la, LABEL * 100), "holds the values [100, 200]"),
}


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A plain data set with two good cases and one case of every bad kind."""
    folder = tmp_path / "data"
    _good(folder, "a-good")
    _good(folder, "z-good-too")
    for name, (spoil, _) in BAD.items():
        spoil(*_good(folder, name))
    (folder / "images" / "._a-good.nii.gz").write_bytes(b"\x00\x05\x16\x07")
    (folder / "labels.json").write_text('{"1": "organ", "2": "left lobe"}')
    return folder


def test_every_kind_is_set_aside_and_the_good_come_in(
    store: Store, spoilt: Path, task: Task
) -> None:
    dataset = find_cases(spoilt)
    report = ingest_cases(store, dataset, dataset.cases, task=task)
    assert (report.added, report.already_known) == (2, 0)
    reasons = dict(report.quarantined)
    assert sorted(reasons) == sorted(BAD)
    assert [name for name, (_, reason) in BAD.items() if reason not in reasons[name]] == []
    assert count_quarantined(store, task.name) == len(BAD)
    assert [scan.case for scan in sorted(list_scans(store), key=lambda scan: scan.case)] == [
        "a-good",
        "z-good-too",
    ]


def test_repaired_files_leave_the_quarantine(store: Store, spoilt: Path, task: Task) -> None:
    dataset = find_cases(spoilt)
    ingest_cases(store, dataset, dataset.cases, task=task)
    repaired = ["nan", "shifted", "absurd"]
    for place, name in enumerate(repaired):
        image, _ = _good(spoilt, name)
        _save(image, NOISE - place)
    report = ingest_cases(store, dataset, dataset.cases, task=task)
    assert (report.added, report.already_known) == (len(repaired), 2)
    assert count_quarantined(store) == len(BAD) - len(repaired)
    with store.read() as connection:
        left = {row["case_name"] for row in connection.execute("SELECT * FROM quarantine")}
    assert left == set(BAD) - set(repaired)


def test_a_missing_channel_sets_one_case_aside(store: Store, tmp_path: Path, task: Task) -> None:
    images = tmp_path / "imagesTr"
    images.mkdir()
    for name in ("a_0000", "a_0001", "b_0000"):
        _save(images / f"{name}.nii.gz", NOISE + ord(name[0]) + int(name[-1]))
    description = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "x": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = find_cases(tmp_path)
    report = ingest_cases(store, dataset, dataset.cases, task=task)
    assert report.quarantined == (("b", "the file b_0001.nii.gz is not there"),)
    (scan,) = list_scans(store)
    assert load_array(store, scan.image_key).shape == (2, *SHAPE)


@pytest.mark.parametrize("announced", [1, 2, 3])
def test_4d_comes_in_only_where_dataset_json_announces_it(
    store: Store, tmp_path: Path, task: Task, announced: int
) -> None:
    _save(tmp_path / "a.nii.gz", np.stack([NOISE, NOISE**2], axis=-1))
    _save(tmp_path / "l.nii.gz", LABEL)
    modality = {str(number): "MR" for number in range(announced)}
    training = [{"image": "./a.nii.gz", "label": "./l.nii.gz"}]
    description = {"modality": modality, "labels": {}, "training": training}
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = find_cases(tmp_path)
    report = ingest_cases(store, dataset, dataset.cases, task=task)
    if announced != 2:
        assert report.added == 0
        assert "found 4D of shape (6, 7, 5, 2)" in report.quarantined[0][1]
        return
    assert (report.added, report.quarantined) == (1, ())
    image = load_array(store, list_scans(store)[0].image_key)
    # Normalising keeps the order of values inside a channel, apart from the clipped ends.
    for channel, raw in zip(image, (NOISE, NOISE**2), strict=True):
        order = np.argsort(raw.ravel())[4:-4]
        assert (np.diff(channel.ravel()[order]) > 0).all()


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("as_vector", [True, False])
def test_itk_channels_come_in_front(tmp_path: Path, suffix: str, as_vector: bool) -> None:
    channels = np.stack([NOISE, NOISE + 9])
    last = np.moveaxis(channels, 0, -1) if as_vector else channels
    kji = last.transpose(2, 1, 0, 3) if as_vector else last.transpose(0, 3, 2, 1)
    path = tmp_path / f"v{suffix}"
    sitk.WriteImage(sitk.GetImageFromArray(kji, isVector=as_vector), str(path))
    found = read_case(Dataset("msd", tmp_path, (), {}, 2), Case("v", (path,), None))
    # ITK's axes run to the left and to the back, RAS to the right and to the front.
    np.testing.assert_array_equal(found.image, channels[:, ::-1, ::-1])
    with pytest.raises(BadScanError, match="expected a 3D volume, found 4D"):
        read_case(Dataset("plain", tmp_path, (), {}, 1), Case("v", (path,), None))


LEAN = """
import resource, sys, time
from pathlib import Path
from client.store.volume_files import read_volume
from client.store.volume_files import read_volume
from common.errors import BadScanError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in sys.argv[1:]:
    started = time.perf_counter()
    try:
        read_volume([Path(name)])
    except BadScanError as error:
        print(f"{time.perf_counter() - started:.3f} {error}")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_lying_headers_are_refused_fast_and_without_memory(tmp_path: Path) -> None:
    paths = []
    for number, dim in enumerate([(32767,) * 3, (2000, 2000, 2000), (1000, 1000, 500)]):
        path = tmp_path / f"v{number}.nii.gz"
        _save(path, np.random.default_rng(2).normal(size=(48, 48, 48)).astype(np.float32))
        _patch(path, DIM, "<3h", *dim)
        (tmp_path / f"v{number}.nii").write_bytes(gzip.decompress(path.read_bytes()))
        paths += [path, tmp_path / f"v{number}.nii"]
    # 90 kB of zeros that swell to what the header promises less one byte in ten.
    bomb = tmp_path / "bomb.nii.gz"
    head = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).to_bytes()[:352]
    bomb.write_bytes(gzip.compress(head + bytes(90_000_000)))
    _patch(bomb, DIM, "<3h", 1000, 1000, 100)
    for suffix in (".nrrd", ".mha"):
        path = tmp_path / f"v{suffix}"
        sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path))
        data = path.read_bytes().replace(b"5 7 6", b"1024 1024 1000")
        assert b"1024 1024 1000" in data
        path.write_bytes(data)
        paths.append(path)
    command = [sys.executable, "-c", LEAN, *map(str, [*paths, bomb])]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    *refusals, grown_kb = done.stdout.splitlines()
    assert len(refusals) == len(paths) + 1
    assert max(float(line.split()[0]) for line in refusals) < 5
    assert int(grown_kb) < 200_000


def _outcome(path: Path) -> str:
    """Either all is well with the case or it is refused; no other error may come out."""
    try:
        found = read_case(Dataset("plain", path.parent, (), {}, 1), Case("v", (path,), path))
    except BadScanError:
        return "refused"
    assert np.isfinite(found.image).all()
    assert np.isfinite(found.geometry.affine).all()
    assert found.image.shape[1:] == found.geometry.shape
    return "read"


@pytest.mark.filterwarnings("default")  # NumPy's and nibabel's, on the way to a refusal
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(
    suffix: str, data: st.DataObject
) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"v{suffix}"
        image = sitk.GetImageFromArray(np.abs(np.round(NOISE)).astype(np.int16))
        sitk.WriteImage(image, str(path))
        content = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(content) - 1))
            patch = data.draw(st.binary(min_size=1, max_size=8))
            content[at : at + len(patch)] = patch
        path.write_bytes(bytes(content))
        _outcome(path)


def test_an_undamaged_file_is_read(tmp_path: Path) -> None:
    _save(tmp_path / "v.nii", np.abs(np.round(NOISE)))
    assert _outcome(tmp_path / "v.nii") == "read"


def test_nothing_is_stored_of_a_bad_case(store: Store, spoilt: Path, task: Task) -> None:
    for name in ("a-good", "z-good-too"):
        (spoilt / "images" / f"{name}.nii.gz").unlink()
    dataset = find_cases(spoilt)
    assert ingest_cases(store, dataset, dataset.cases, task=task).added == 0
    assert list(store.folder.rglob("*.npy")) == []
    assert list_scans(store) == []


LOCAL = b"ElementDataFile = LOCAL\n"


@pytest.mark.parametrize(
    ("line", "broken", "reason"),
    [
        (b"NDims = 3", b"NDims = 1e300", "expected a line NDims = 3"),
        (b"NDims = 3", b"NDims = 99", "expected a line NDims = 3"),
        (b"NDims = 3\n", b"", "expected a line NDims = 3"),
        (LOCAL, b"ElementDataFile = LOC \x90\x89\n", "not in it nor beside it"),
        (LOCAL, b"ElementDataFile = /dev/zero\n", "not in it nor beside it"),
        (LOCAL, b"ElementDataFile = v.raw\n", "not in it nor beside it"),
        (LOCAL, b"", "not in it nor beside it"),
    ],
)
def test_a_meta_image_that_would_end_the_process_is_refused(
    tmp_path: Path, line: bytes, broken: bytes, reason: str
) -> None:
    """SimpleITK 2.5 dies of some of these by a signal, which nobody could catch."""
    path = tmp_path / "v.mha"
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path))
    (tmp_path / "v.raw").write_bytes(NOISE.tobytes())
    path.write_bytes(path.read_bytes().replace(line, broken))
    with pytest.raises(BadScanError, match=reason):
        read_volume([path])


@pytest.mark.parametrize("outside", ["../v.raw", "/dev/zero", "%02d.raw 1 6 1", "LIST"])
def test_an_mhd_names_one_file_beside_it(tmp_path: Path, outside: str) -> None:
    path = tmp_path / "deep" / "v.mhd"
    path.parent.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(NOISE), str(path))
    assert read_volume([path]).array.shape == (1, *SHAPE[::-1])
    (tmp_path / "v.raw").write_bytes(path.with_suffix(".raw").read_bytes())
    text = path.read_text().replace("= v.raw", f"= {outside}")
    path.write_text(text)
    with pytest.raises(BadScanError, match="not in it nor beside it"):
        read_volume([path])


def test_axes_that_nearly_lie_in_a_plane_are_refused(tmp_path: Path) -> None:
    """nibabel cannot tell an order from them, and its own error would stop the other cases."""
    affine = np.eye(4)
    affine[:3, 1] = [1000, 1e-3, 0]
    affine[:3, 0] = [1000, 0, 0]
    _save(tmp_path / "v.nii", NOISE, affine)
    with pytest.raises(BadScanError, match="invertible affine"):
        read_volume([tmp_path / "v.nii"])
