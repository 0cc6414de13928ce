"""Masks painted in other programs become annotations, pixel for pixel, or are refused."""

import subprocess
import sys
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tomli_w
from pydicom.sr.codedict import codes
from scipy.spatial.transform import Rotation
from small_dicom import rewrite, write_series

from client.annotation.import_masks import ImportedSlice, Wanted, import_mask
from client.annotation.match_segments import read_map
from client.store.annotations import all_versions, latest_annotations
from client.store.audit import read_audit
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.local_names import local_names
from client.store.scans import list_scans
from client.store.store import Store, create_store
from common.errors import BadScanError, LabelDictionaryError, SettingsError, StoreError
from common.plan import FederationPlan
from common.scans import AXIS_OF_PLANE, Plane

ROOT = Path(__file__).parents[3]
SHAPE = (7, 9, 6)
IMAGE = np.random.default_rng(0).integers(0, 2000, size=SHAPE).astype(np.int16)
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = Rotation.from_euler("zyx", [12, -25, 33], degrees=True).as_matrix() * [
    0.9,
    0.6,
    3,
]
OBLIQUE[:3, 3] = [-31.25, 17.5, 220.125]
AFFINES = {
    "RAS": np.diag([1.0, 1, 1, 1]),
    "LPS": np.array([[-0.5, 0, 0, 40], [0, -0.5, 0, 60], [0, 0, 2.5, -100], [0, 0, 0, 1.0]]),
    "permuted": np.array([[0, 0, 1.2, -9], [-0.7, 0, 0, 30], [0, 0.7, 0, 5], [0, 0, 0, 1.0]]),
    "oblique": OBLIQUE,
}
PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")


def _plan(plane: Plane) -> FederationPlan:
    network = {"channels": [4, 8], "strides": [2]}
    return FederationPlan.model_validate(
        {
            "name": "test",
            "labels": [
                {"name": "Liver", "index": 1, "snomed": "10200004"},
                {"name": "Left lobe", "index": 2},
            ],
            "tasks": [
                {
                    "name": "first",
                    "classes": ["Liver", "Left lobe"],
                    "modality": "MR",
                    "plane": plane,
                    "rounds": 1,
                }
            ],
            "segmenter": network,
            "student": network,
            "training": {"patch_size": [8, 8, 8]},
            "limits": {"hospitals": 1},
        }
    )


def _painted(plane: Plane, affine: np.ndarray, indexes: tuple[int, ...]) -> np.ndarray:
    """Labels in file order, painted on slices that are `indexes` along the RAS axis of `plane`."""
    ras = nib.as_closest_canonical(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), affine))
    labels = np.zeros(ras.shape, dtype=np.uint8)
    along = np.moveaxis(labels, AXIS_OF_PLANE[plane], 0)
    for index in indexes:
        along[index] = np.random.default_rng(index).integers(0, 3, size=along.shape[1:])
    back = nib.orientations.ornt_transform(
        nib.io_orientation(ras.affine), nib.io_orientation(affine)
    )
    return np.asarray(nib.Nifti1Image(labels, ras.affine).as_reoriented(back).dataobj)


def _slice_of(plane: Plane, painted: np.ndarray, affine: np.ndarray, index: int) -> np.ndarray:
    ras = nib.as_closest_canonical(nib.Nifti1Image(painted, affine))
    return np.take(np.asarray(ras.dataobj), index, axis=AXIS_OF_PLANE[plane])


def _store(folder: Path, plan: FederationPlan, affine: np.ndarray) -> Store:
    (folder / "data" / "images").mkdir(parents=True)
    nib.save(nib.Nifti1Image(IMAGE, affine), folder / "data" / "images" / "case.nii.gz")
    store, dataset = create_store(folder / "store", "north"), find_cases(folder / "data")
    assert ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0]).added == 1
    return store


def _write_itk(path: Path, painted: np.ndarray, affine: np.ndarray) -> None:
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.sqrt((lps[:3, :3] ** 2).sum(axis=0))
    image = sitk.GetImageFromArray(np.ascontiguousarray(painted.transpose(2, 1, 0)))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path))


def _write_slicer(
    path: Path, layers: list[np.ndarray], affine: np.ndarray, fields: list[str]
) -> None:
    """A .seg.nrrd as 3D Slicer writes it: LPS, layers as the fastest axis, keys with `:=`."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    columns = " ".join(f"({','.join(repr(float(n)) for n in lps[:3, axis])})" for axis in range(3))
    several = len(layers) > 1
    header = [
        "NRRD0004",
        "type: unsigned char",
        f"dimension: {3 + several}",
        "space: left-posterior-superior",
        f"sizes: {f'{len(layers)} ' if several else ''}{' '.join(map(str, layers[0].shape))}",
        f"space directions: {'none ' if several else ''}{columns}",
        f"kinds: {'list ' if several else ''}domain domain domain",
        "endian: little",
        "encoding: raw",
        f"space origin: ({','.join(repr(float(n)) for n in lps[:3, 3])})",
        *fields,
    ]
    data = np.stack(layers).ravel(order="F").tobytes()
    path.write_bytes("\n".join(header).encode() + b"\n\n" + data)


def _import(
    store: Store, plan: FederationPlan, path: Path, *told: str, index: int | None = None,
    every: bool = False, scan: str = "case",
) -> list[ImportedSlice]:  # fmt: skip
    return import_mask(store, plan, path, scan, Wanted("anna", read_map(told, plan), index, every))


@pytest.mark.parametrize("kind", AFFINES)
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha", ".seg.nrrd"])
def test_the_stored_mask_is_the_painted_one(
    tmp_path: Path, kind: str, plane: Plane, suffix: str
) -> None:
    plan, affine = _plan(plane), AFFINES[kind]
    store = _store(tmp_path, plan, affine)
    painted, path = _painted(plane, affine, (3,)), tmp_path / f"mask{suffix}"
    if suffix == ".nii.gz":
        nib.save(nib.Nifti1Image(painted, affine), path)
    elif suffix == ".seg.nrrd":
        fields = ["Segment0_Name:=left lobe", "Segment0_LabelValue:=2",
                  "Segment1_Name:=Liver", "Segment1_LabelValue:=1"]  # fmt: skip
        _write_slicer(path, [painted], affine, fields)
    else:
        _write_itk(path, painted, affine)
    (saved,) = _import(store, plan, path)
    (found,) = latest_annotations(store, saved.ref.scan_id)
    wanted = _slice_of(plane, painted, affine, 3)
    np.testing.assert_array_equal(found.mask, wanted)
    assert (found.ref.axis, found.ref.index) == (AXIS_OF_PLANE[plane], 3)
    assert (found.looked_for, found.annotator, found.seconds_spent) == ((1, 2), "anna", 0.0)
    assert saved.pixels == {n: int((wanted == n).sum()) for n in (1, 2)}
    assert read_audit(store)[-1].event == "imported"


@pytest.mark.parametrize("kind", AFFINES)
def test_a_slicer_file_cut_to_its_segments_goes_to_its_place(tmp_path: Path, kind: str) -> None:
    plan, affine = _plan("axial"), AFFINES[kind]
    store = _store(tmp_path, plan, affine)
    painted = _painted("axial", affine, (2,))
    box = tuple(slice(n.min(), n.max() + 1) for n in np.nonzero(painted))
    cut = affine.copy()
    cut[:3, 3] += affine[:3, :3] @ [part.start for part in box]
    fields = ["Segment0_Name:=Liver", "Segment0_LabelValue:=1", "Segment1_Name:=Left lobe",
              "Segment1_LabelValue:=2"]  # fmt: skip
    _write_slicer(tmp_path / "cut.seg.nrrd", [painted[box]], cut, fields)
    (saved,) = _import(store, plan, tmp_path / "cut.seg.nrrd")
    (found,) = latest_annotations(store, saved.ref.scan_id)
    np.testing.assert_array_equal(found.mask, _slice_of("axial", painted, affine, 2))


def _layers(overlap: bool) -> list[np.ndarray]:
    first, second = np.zeros((2, *SHAPE), dtype=np.uint8)
    first[1:4, 2:5, 3], second[4:6, 2:5, 3] = 1, 1
    second[3, 3, 3] = int(overlap)
    return [first, second]


LAYERED = [
    "Segment0_Name:=Segment_1", "Segment0_LabelValue:=1", "Segment0_Layer:=0",
    "Segment0_Tags:=Segmentation.Status:inprogress|TerminologyEntry:3D Slicer General Anatomy list"
    "~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^~Anatomic codes~^^~^^|",
    "Segment1_Name:=Left-lobe", "Segment1_LabelValue:=1", "Segment1_Layer:=1",
]  # fmt: skip


def test_layers_of_slicer_are_joined_by_name_and_code(tmp_path: Path) -> None:
    plan = _plan("axial")
    store = _store(tmp_path, plan, AFFINES["RAS"])
    first, second = _layers(overlap=False)
    _write_slicer(tmp_path / "a.seg.nrrd", [first, second], AFFINES["RAS"], LAYERED)
    (saved,) = _import(store, plan, tmp_path / "a.seg.nrrd")
    (found,) = latest_annotations(store, saved.ref.scan_id)
    np.testing.assert_array_equal(found.mask, (first + 2 * second)[:, :, 3])


def test_what_the_file_calls_the_labels_is_kept(tmp_path: Path) -> None:
    plan, affine = _plan("axial"), AFFINES["LPS"]
    store = _store(tmp_path, plan, affine)
    path = tmp_path / "mask.seg.nrrd"
    _write_slicer(path, _layers(False), affine, LAYERED)
    _import(store, plan, path)
    assert local_names(store, plan, plan.tasks) == {
        "Liver": ("Segment_1",),
        "Left lobe": ("Left-lobe",),
    }
    _write_itk(tmp_path / "mask.mha", _painted("axial", affine, (3,)), affine)
    _import(store, plan, tmp_path / "mask.mha", "2=0")
    assert local_names(store, plan, plan.tasks) == {"Liver": ("value 1",)}


def test_a_pixel_painted_twice_is_refused_and_can_be_decided(tmp_path: Path) -> None:
    plan = _plan("axial")
    store = _store(tmp_path, plan, AFFINES["RAS"])
    first, second = _layers(overlap=True)
    _write_slicer(tmp_path / "a.seg.nrrd", [first, second], AFFINES["RAS"], LAYERED)
    with pytest.raises(BadScanError, match="slice 3: 1 pixels are painted as two"):
        _import(store, plan, tmp_path / "a.seg.nrrd")
    (saved,) = _import(store, plan, tmp_path / "a.seg.nrrd", "Segment_1=0")
    (found,) = latest_annotations(store, saved.ref.scan_id)
    np.testing.assert_array_equal(found.mask, 2 * second[:, :, 3])


def test_of_several_slices_one_is_chosen_or_all(tmp_path: Path) -> None:
    plan = _plan("coronal")
    store = _store(tmp_path, plan, AFFINES["LPS"])
    painted, path = _painted("coronal", AFFINES["LPS"], (1, 4, 8)), tmp_path / "mask.nii"
    nib.save(nib.Nifti1Image(painted, AFFINES["LPS"]), path)
    with pytest.raises(
        SettingsError, match="3 slices are painted, 1 to 8: choose one with --index"
    ):
        _import(store, plan, path)
    assert [one.ref.index for one in _import(store, plan, path, index=4)] == [4]
    everything = _import(store, plan, path, every=True)
    assert [(one.ref.index, one.version) for one in everything] == [(1, 1), (4, 2), (8, 1)]
    for one in everything:
        wanted = _slice_of("coronal", painted, AFFINES["LPS"], one.ref.index)
        np.testing.assert_array_equal(all_versions(store, one.ref)[-1].mask, wanted)


def test_an_empty_slice_counts_when_it_is_named(tmp_path: Path) -> None:
    plan, path = _plan("axial"), tmp_path / "mask.nii"
    store = _store(tmp_path, plan, AFFINES["RAS"])
    nib.save(nib.Nifti1Image(np.zeros(SHAPE, np.uint8), AFFINES["RAS"]), path)
    with pytest.raises(SettingsError, match="nothing is painted in this file"):
        _import(store, plan, path)
    with pytest.raises(SettingsError, match="slices 0 to 5"):
        _import(store, plan, path, index=6)
    (saved,) = _import(store, plan, path, index=5)
    assert saved.pixels == {1: 0, 2: 0}


def test_unknown_values_and_other_grids_are_refused_and_nothing_is_saved(tmp_path: Path) -> None:
    plan, path = _plan("axial"), tmp_path / "mask.nii"
    store = _store(tmp_path, plan, AFFINES["RAS"])
    painted = _painted("axial", AFFINES["RAS"], (3,))
    nib.save(nib.Nifti1Image(np.where(painted == 2, np.uint8(9), painted), AFFINES["RAS"]), path)
    with pytest.raises(LabelDictionaryError, match=r"(?s)no label for:.* 9  \(unnamed\)"):
        _import(store, plan, path)
    nib.save(nib.Nifti1Image(painted, np.diag([1.0, 1, 2, 1])), path)
    with pytest.raises(BadScanError, match=r"not on the scan's grid, but up to 5 mm away"):
        _import(store, plan, path)
    nib.save(nib.Nifti1Image(painted[:, :, :3], AFFINES["RAS"]), tmp_path / "mask.nii.gz")
    with pytest.raises(SettingsError, match="nothing is painted"):
        _import(store, plan, tmp_path / "mask.nii.gz")
    assert latest_annotations(store, list_scans(store)[0].scan_id) == []
    painted_values = painted.astype(np.float32) + 0.5
    nib.save(nib.Nifti1Image(painted_values, AFFINES["RAS"]), path)
    with pytest.raises(BadScanError, match=r"expected label values 0 to 254, found 0\.5"):
        _import(store, plan, path)


def test_scans_are_named_by_id_or_by_case(tmp_path: Path) -> None:
    plan, path = _plan("axial"), tmp_path / "mask.nii"
    store = _store(tmp_path, plan, AFFINES["RAS"])
    nib.save(nib.Nifti1Image(_painted("axial", AFFINES["RAS"], (3,)), AFFINES["RAS"]), path)
    scan_id = list_scans(store)[0].scan_id
    assert _import(store, plan, path, scan=scan_id)[0].version == 1
    assert _import(store, plan, path, scan="case")[0].version == 2
    with pytest.raises(StoreError, match="has no scan 'another'"):
        _import(store, plan, path, scan="another")
    with pytest.raises(SettingsError, match="expected a painted file"):
        _import(store, plan, tmp_path / "nowhere.nii")
    (tmp_path / "mask.png").write_bytes(b"no DICOM")
    with pytest.raises(BadScanError, match=r"expected a DICOM SEG, or a file name ending in \.nii"):
        _import(store, plan, tmp_path / "mask.png")


def _segmentation(
    sources: list[Path], painted: np.ndarray, kind: str, path: Path, names: tuple[str, str]
) -> None:
    """Written with highdicom, as other programs do: (slice, row, column) with labels 1 and 2."""
    images = [pydicom.dcmread(source) for source in sources]
    described = [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=names[number - 1],
            segmented_property_category=codes.SCT.AnatomicalStructure,
            segmented_property_type=codes.SCT.Liver if number == 1 else codes.SCT.Spleen,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.MANUAL,
        )
        for number in (1, 2)
    ]
    segmentation = hd.seg.Segmentation(
        source_images=images,
        pixel_array=painted,
        segmentation_type=kind,
        segment_descriptions=described,
        series_instance_uid=hd.UID(),
        series_number=7,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer="test",
        manufacturer_model_name="test",
        software_versions="1",
        device_serial_number="1",
    )
    segmentation.save_as(path)


@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # highdicom's, on what the test's headers lack
@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP", "FRACTIONAL"])
@pytest.mark.parametrize("directions", ["straight", "oblique"])
@pytest.mark.parametrize("plane", PLANES)
def test_a_dicom_segmentation_goes_to_its_place(
    tmp_path: Path, kind: str, directions: str, plane: Plane
) -> None:
    plan = _plan(plane)
    turn = Rotation.from_euler("zyx", [12, -25, 33], degrees=True).as_matrix()
    sources = write_series(
        tmp_path / "disc", IMAGE.transpose(2, 1, 0), spacing_mm=(2.5, 0.7, 0.6),
        directions=turn if directions == "oblique" else np.diag([1.0, -1, -1]),
        origin_mm=(30.5, -12.25, 80), shuffled_by=5,
    )  # fmt: skip
    store, dataset = create_store(tmp_path / "store", "north"), find_cases(tmp_path / "disc")
    assert ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0]).added == 1
    (scan,) = list_scans(store)
    affine = np.asarray(scan.original.affine)
    painted = _painted(plane, affine, (3,))
    path = tmp_path / "seg"
    order = np.random.default_rng(2).permutation(len(sources))
    _segmentation(
        [sources[n] for n in order], painted.transpose(2, 1, 0)[order], kind, path,
        ("Leber", "left lobe"),
    )  # fmt: skip
    (saved,) = _import(store, plan, path, scan=scan.scan_id)
    (found,) = latest_annotations(store, scan.scan_id)
    np.testing.assert_array_equal(found.mask, _slice_of(plane, painted, affine, 3))
    assert saved.pixels[1] > 0
    rewrite(path, lambda dataset: setattr(dataset, "PatientID", "another"))
    with pytest.raises(BadScanError, match="another patient's than the scan"):
        _import(store, plan, path, scan=scan.scan_id)


def test_other_dicom_is_no_mask(tmp_path: Path) -> None:
    plan = _plan("axial")
    store = _store(tmp_path, plan, AFFINES["RAS"])
    path = write_series(tmp_path / "disc", IMAGE)[0]
    with pytest.raises(BadScanError, match="expected a DICOM SEG"):
        _import(store, plan, path)


def test_shares_of_voxels_are_no_mask(tmp_path: Path) -> None:
    plan, path = _plan("axial"), tmp_path / "seg"
    store = _store(tmp_path, plan, AFFINES["RAS"])
    sources = write_series(tmp_path / "disc", IMAGE)
    names = ("Liver", "Left lobe")
    _segmentation(sources, _painted("axial", np.eye(4), (2,)), "FRACTIONAL", path, names)
    rewrite(path, lambda dataset: setattr(dataset, "MaximumFractionalValue", 254))
    with pytest.raises(BadScanError, match=r"found shares \(FRACTIONAL\): export"):
        _import(store, plan, path)


WITHOUT_HIGHDICOM = """
import sys
from pathlib import Path

sys.modules["highdicom"] = None
from client.annotation.import_masks import read_painted
from common.errors import SettingsError

try:
    read_painted(Path(sys.argv[1]))
except SettingsError as error:
    print(error)
"""


def test_without_the_extra_one_is_told_what_to_install(tmp_path: Path) -> None:
    path = write_series(tmp_path, IMAGE)[0]
    command = [sys.executable, "-c", WITHOUT_HIGHDICOM, str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "pip install 'oneslice[dicom]'" in done.stdout


def test_the_command_says_what_it_took(tmp_path: Path) -> None:
    plan, path = _plan("axial"), tmp_path / "mask.nii"
    store = _store(tmp_path, plan, AFFINES["RAS"])
    painted = _painted("axial", AFFINES["RAS"], (3,))
    nib.save(nib.Nifti1Image(np.where(painted == 1, np.uint8(5), painted), AFFINES["RAS"]), path)
    (tmp_path / "plan.toml").write_text(tomli_w.dumps(plan.model_dump(exclude_none=True)))
    words = ["import-mask", path, "--store", store.folder, "--plan", tmp_path / "plan.toml",
             "--scan", "case", "--map", "5=Liver", "--annotator", "ben"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "oneslice", "hospital", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    (found,) = latest_annotations(store, list_scans(store)[0].scan_id)
    np.testing.assert_array_equal(found.mask, painted[:, :, 3])
    numbers = [int((painted == n).sum()) for n in (1, 2)]
    wanted = f"slice 3, version 1: pixels Liver {numbers[0]}, Left lobe {numbers[1]}"
    assert wanted in done.stdout
    assert found.annotator == "ben"
