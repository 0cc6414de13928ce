"""The catalog gives scans back, and turns their labels into the plan's."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import (
    check_label_dictionary,
    find_scan,
    list_scans,
    load_scan,
    read_reference,
)
from client.store.store import Store
from common.errors import LabelDictionaryError, StoreError
from common.plan import FederationPlan, Task

SaveNifti = Callable[..., Path]


def _named(store: Store, folder: Path, task: Task, names: str) -> str:
    """Ingests the plain pairs with names for their values; the id of the first."""
    (folder / "labels.json").write_text(names)
    dataset = find_cases(folder)
    ingest_cases(store, dataset, dataset.cases, task=task)
    return next(scan.scan_id for scan in list_scans(store) if scan.case == "case0")


def _label(folder: Path) -> np.ndarray:
    return np.asarray(nib.load(folder / "labels" / "case0.nii.gz").dataobj)


def test_scans_are_listed_by_id_and_task(store: Store, scan_ids: list[str]) -> None:
    assert scan_ids == sorted(scan_ids)
    assert [scan.scan_id for scan in list_scans(store, "first")] == scan_ids
    assert list_scans(store, "second") == []
    assert find_scan(store, scan_ids[1]) == list_scans(store)[1]


def test_an_unknown_scan_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="has no scan 'scan-0'"):
        find_scan(store, "scan-0")


def test_a_scan_is_mapped_in_ras_order(
    store: Store, tmp_path: Path, task: Task, save_nifti: SaveNifti
) -> None:
    image = np.random.default_rng(5).normal(size=(4, 5, 6)).astype(np.float32)
    affine = np.array([[0, -2.0, 0, 9], [0, 0, 3.0, -5], [0.5, 0, 0, 1], [0, 0, 0, 1]])
    save_nifti(tmp_path / "data" / "images" / "a.nii.gz", image, affine)
    dataset = find_cases(tmp_path / "data")
    ingest_cases(store, dataset, dataset.cases, task=task)
    (row,) = list_scans(store)
    scan = load_scan(store, row.scan_id)
    assert isinstance(scan.image, np.memmap)
    assert scan.image.shape == (1, *scan.geometry.shape) == (1, 5, 6, 4)
    assert scan.geometry.spacing_mm == (2.0, 3.0, 0.5)
    assert row.original.shape == (4, 5, 6)
    np.testing.assert_allclose(row.original.affine, affine)
    order = np.argsort(scan.image[0].ravel(), kind="stable")
    expected = image.transpose(1, 2, 0)[::-1]
    np.testing.assert_array_equal(order[5:-5], np.argsort(expected.ravel(), kind="stable")[5:-5])


@pytest.mark.parametrize("name", ["left-lobe", "Left Lobe", "LEFT_LOBE", "Left (lobe)"])
def test_labels_are_matched_by_name(
    store: Store, plain_folder: Path, task: Task, plan: FederationPlan, name: str
) -> None:
    names = f'{{"1": "{name}", "2": "Organ"}}'
    scan_id = _named(store, plain_folder, task, names)
    label = _label(plain_folder)
    expected = np.where(label > 0, 3 - label, 0)
    reference = read_reference(store, scan_id, plan)
    assert reference.dtype == np.uint8
    np.testing.assert_array_equal(reference, expected)


def test_labels_that_the_plan_lacks_become_background(
    store: Store, plain_folder: Path, task: Task, plan: FederationPlan
) -> None:
    scan_id = _named(store, plain_folder, task, '{"1": "spleen", "2": "organ"}')
    expected = (_label(plain_folder) == 2).astype(np.uint8)
    np.testing.assert_array_equal(read_reference(store, scan_id, plan), expected)


def test_labels_without_names_are_matched_by_value(
    store: Store, scan_ids: list[str], plain_folder: Path, plan: FederationPlan
) -> None:
    first = next(scan for scan in list_scans(store) if scan.case == "case0")
    assert first.scan_id in scan_ids
    np.testing.assert_array_equal(read_reference(store, first.scan_id, plan), _label(plain_folder))


def test_a_scan_without_a_label_says_so(
    store: Store, plain_folder: Path, task: Task, plan: FederationPlan
) -> None:
    (plain_folder / "labels").rename(plain_folder / "elsewhere")
    dataset = find_cases(plain_folder)
    ingest_cases(store, dataset, dataset.cases, task=task)
    with pytest.raises(StoreError, match="came without a full label"):
        read_reference(store, list_scans(store)[0].scan_id, plan)
    check_label_dictionary(store, plan)


def test_a_dictionary_that_matches_is_accepted(
    store: Store, plain_folder: Path, task: Task, plan: FederationPlan
) -> None:
    _named(store, plain_folder, task, '{"1": "organ", "2": "spleen"}')
    check_label_dictionary(store, plan)


def test_a_dictionary_that_does_not_match_is_shown_as_a_table(
    store: Store, plain_folder: Path, task: Task, plan: FederationPlan
) -> None:
    _named(store, plain_folder, task, '{"1": "spleen", "2": "left lobe"}')
    with pytest.raises(LabelDictionaryError, match=r"'first' looks for \['organ'\]") as caught:
        check_label_dictionary(store, plan)
    rows = [line.split() for line in str(caught.value).splitlines()]
    voxels = [sum(s.label_voxels[value] for s in list_scans(store)) for value in (1, 2)]
    assert ["value", "name", "scans", "voxels", "plan"] in rows
    assert ["1", "spleen", "3", str(voxels[0]), "-"] in rows
    assert ["2", "left", "lobe", "3", str(voxels[1]), "left-lobe"] in rows
