"""The same scan is recognised under another name, in another voxel order, and without its label."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel as nib
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from client.store.annotations import latest_annotations, save_annotation
from client.store.arrays import load_array
from client.store.ingest import IngestReport, ingest_cases, read_case
from client.store.label_maps import MadeFrom, find_label_map, save_label_map
from client.store.layouts import Case, Dataset, find_cases
from client.store.scans import each_image_once, list_scans
from client.store.store import Store
from common.plan import Task
from common.scans import LabelMap, SliceAnnotation, SliceRef, volume_of

SaveNifti = Callable[..., Path]
IMAGE = np.random.default_rng(0).normal(size=(4, 5, 6)).astype(np.float32)
LABEL = np.random.default_rng(1).integers(0, 3, size=(4, 5, 6)).astype(np.uint8)
ORDERS = [
    [[1, 1], [0, 1], [2, 1]],
    [[2, -1], [0, 1], [1, -1]],
    [[1, -1], [2, -1], [0, -1]],
]


def _affine(spacing_mm: list[float], degrees: list[float], origin_mm: list[float]) -> np.ndarray:
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * spacing_mm
    affine[:3, 3] = origin_mm
    return affine


def _reordered(array: np.ndarray, affine: np.ndarray, order: list[list[int]]) -> nib.Nifti1Image:
    return nib.Nifti1Image(array, affine).as_reoriented(np.array(order))


def _scan_id(path: Path) -> str:
    dataset = Dataset("plain", path.parent, (), {}, 1)
    return read_case(dataset, Case("a", (path,), None)).volume_id


def _ingest(store: Store, folder: Path, task: Task) -> IngestReport:
    dataset = find_cases(folder)
    return ingest_cases(store, dataset, dataset.cases, task=task)


# Fixed examples: one origin in some thousands lies on the border of a cell.
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    spacing_mm=st.lists(st.sampled_from([0.3125, 0.9375, 1.0, 1.2, 3.3]), min_size=3, max_size=3),
    degrees=st.lists(st.floats(-40, 40), min_size=3, max_size=3),
    origin_mm=st.lists(st.floats(-250, 250), min_size=3, max_size=3),
    order=st.sampled_from(ORDERS),
)
# Origins whose third decimal hangs on the digits that single precision drops.
@example([0.9375] * 3, [11.0, 3.0, 7.0], [-90.0625, 120.0005, -200.0005], ORDERS[1])
@example([0.9375] * 3, [0.0, 0.0, 0.0], [0.0, 0.0, 0.0], ORDERS[2])
def test_any_voxel_order_gives_the_same_id(
    spacing_mm: list[float], degrees: list[float], origin_mm: list[float], order: list[list[int]]
) -> None:
    affine = _affine(spacing_mm, degrees, origin_mm)
    with TemporaryDirectory() as folder:
        path, copy = Path(folder) / "a.nii", Path(folder) / "b.nii"
        nib.save(nib.Nifti1Image(IMAGE, affine), path)
        nib.save(_reordered(IMAGE, nib.load(path).affine, order), copy)
        assert _scan_id(path) == _scan_id(copy)


def test_other_voxels_or_another_place_give_another_id(
    tmp_path: Path, save_nifti: SaveNifti
) -> None:
    changed, moved = IMAGE.copy(), np.eye(4)
    changed[0, 0, 0] += 1
    moved[0, 3] = 1
    paths = [
        save_nifti(tmp_path / "a.nii", IMAGE),
        save_nifti(tmp_path / "b.nii", changed),
        save_nifti(tmp_path / "c.nii", IMAGE, moved),
        save_nifti(tmp_path / "d.nii", IMAGE, np.diag([1.01, 1, 1, 1])),
    ]
    assert len({_scan_id(path) for path in paths}) == 4


@pytest.mark.parametrize("order", ORDERS)
def test_a_permuted_copy_brings_the_missing_label(
    store: Store, tmp_path: Path, task: Task, save_nifti: SaveNifti, order: list[list[int]]
) -> None:
    affine = _affine([0.9375, 1.2, 3.3], [5, -8, 20], [-90.1, 30.7, 12.3])
    save_nifti(tmp_path / "one" / "images" / "first.nii.gz", IMAGE, affine)
    for kind, array in (("images", IMAGE), ("labels", LABEL)):
        turned = _reordered(array, affine, order)
        path = tmp_path / "two" / kind / "another name.nii.gz"
        save_nifti(path, np.asarray(turned.dataobj), turned.affine)
    assert _ingest(store, tmp_path / "one", task).added == 1
    (before,) = list_scans(store)
    report = _ingest(store, tmp_path / "two", task)
    assert (report.added, report.already_known, report.quarantined) == (0, 1, ())
    (after,) = list_scans(store)
    assert (after.scan_id, after.case, after.original) == (before.scan_id, "first", before.original)
    assert after.reference_key is not None
    # Every image value is there once, so it says where each label value must lie.
    value_to_label = dict(zip(IMAGE.ravel().tolist(), LABEL.ravel().tolist(), strict=True))
    ranks = np.argsort(np.argsort(load_array(store, after.image_key).ravel(), kind="stable"))
    inner = (ranks > 0) & (ranks < ranks.size - 1)  # the outermost are clipped together
    wanted = np.array([value_to_label[value] for value in np.sort(IMAGE.ravel()).tolist()])[ranks]
    found = load_array(store, after.reference_key).ravel()
    np.testing.assert_array_equal(found[inner], wanted[inner])


def test_a_late_label_leaves_annotations_and_label_maps_alone(
    store: Store, tmp_path: Path, task: Task, save_nifti: SaveNifti
) -> None:
    save_nifti(tmp_path / "images" / "a.nii", IMAGE)
    _ingest(store, tmp_path, task)
    scan_id = list_scans(store)[0].scan_id
    painted = SliceAnnotation(SliceRef(scan_id, 0, 3), LABEL[3], (1, 2), "anna", 4.0)
    save_annotation(store, painted)
    soft = np.full((2, *IMAGE.shape), 0.5, dtype=np.float32)
    labels = LabelMap((1,), soft, soft[0], soft[0] > 1, (1,), "propagated")
    save_label_map(store, scan_id, labels, MadeFrom("origin", "ours"))
    save_nifti(tmp_path / "labels" / "a.nii", LABEL)
    report = _ingest(store, tmp_path, task)
    assert (report.already_known, report.quarantined) == (1, ())
    (scan,) = list_scans(store)
    assert scan.reference_key is not None
    np.testing.assert_array_equal(load_array(store, scan.reference_key), LABEL)
    assert scan.label_voxels == dict(enumerate(np.bincount(LABEL.ravel()).tolist()[1:], start=1))
    (kept,) = latest_annotations(store, scan_id)
    np.testing.assert_array_equal(kept.mask, LABEL[3])
    assert find_label_map(store, scan_id, "ours") == MadeFrom("origin", "ours")
    again = _ingest(store, tmp_path, task)
    assert (again.added, again.already_known) == (0, 1)
    assert list_scans(store) == [scan]


def test_the_same_scan_for_another_task_is_a_scan_of_its_own(
    store: Store, tmp_path: Path, task: Task, save_nifti: SaveNifti
) -> None:
    save_nifti(tmp_path / "images" / "a.nii", IMAGE)
    values = {**task.model_dump(), "modality": "CT"}
    first = Task.model_validate({**values, "window_hu": [0.0, 10.0]})
    other = Task.model_validate({**values, "name": "other", "window_hu": [0.0, 1.0]})
    assert _ingest(store, tmp_path, first).serve_others == 0
    (one,) = list_scans(store)
    save_nifti(tmp_path / "images" / "b.nii", IMAGE + 1)
    report = _ingest(store, tmp_path, other)
    assert (report.added, report.already_known, report.serve_others) == (2, 0, 1)
    assert report.quarantined == ()
    assert list_scans(store, first.name) == [one]  # as it was
    two = next(scan for scan in list_scans(store, "other") if scan.case == "a")
    assert two.scan_id == f"{one.scan_id}-other"
    assert volume_of(two.scan_id) == volume_of(one.scan_id) == one.scan_id
    # Each is normalised by its own task's window, so they are two images.
    assert two.image_key != one.image_key
    axis_of = {first.name: 2, "other": 2}
    assert each_image_once([one, two], axis_of) == [one, two]
    assert each_image_once([one, replace(two, image_key=one.image_key)], axis_of) == [one]
    painted = SliceAnnotation(SliceRef(two.scan_id, 0, 3), LABEL[3], (1, 2), "anna", 4.0)
    save_annotation(store, painted)
    assert latest_annotations(store, one.scan_id) == []
    # It is known again for either task, also after a label came.
    save_nifti(tmp_path / "labels" / "a.nii", LABEL)
    for task_again, added, known in ((other, 0, 2), (first, 1, 1)):
        again = _ingest(store, tmp_path, task_again)
        assert (again.added, again.already_known) == (added, known)
    assert {scan.reference_key is None for scan in list_scans(store) if scan.case == "a"} == {False}
    assert len(latest_annotations(store, two.scan_id)) == 1


def test_a_changed_window_and_a_corrected_label_are_taken_over(
    store: Store, tmp_path: Path, task: Task, save_nifti: SaveNifti
) -> None:
    save_nifti(tmp_path / "images" / "a.nii", IMAGE)
    save_nifti(tmp_path / "labels" / "a.nii", LABEL)
    values = {**task.model_dump(), "modality": "CT"}
    narrow = Task.model_validate({**values, "window_hu": [0.0, 10.0]})
    wide = Task.model_validate({**values, "window_hu": [0.0, 100.0]})
    _ingest(store, tmp_path, narrow)
    (before,) = list_scans(store)
    save_nifti(tmp_path / "labels" / "a.nii", np.zeros_like(LABEL))
    assert _ingest(store, tmp_path, wide).already_known == 1
    (after,) = list_scans(store)
    assert after.image_key != before.image_key
    assert after.reference_key != before.reference_key
    assert after.label_voxels == {}
