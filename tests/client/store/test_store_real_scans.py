"""Real scans: results go back onto the very voxels of the file that they came from."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.store.arrays import load_array
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import list_scans, load_scan
from client.store.store import Store
from client.store.volume_files import read_volume, write_volume_like
from common.plan import Task

KINDS = {
    "hippocampus": "MR",
    "cardiac": "MR",
    "mouse_brain": "MR",
    "spinal_cord": "MR",
    "ct_examples": "CT",
}


@pytest.mark.real_scans
@pytest.mark.parametrize("name", KINDS)
def test_a_label_written_back_is_the_file_it_came_from(
    store: Store, task: Task, real_scans: Path, tmp_path: Path, name: str
) -> None:
    if not (real_scans / name).is_dir():
        pytest.skip(f"no real scans called {name}")
    window_hu = (-160.0, 240.0) if KINDS[name] == "CT" else None
    task = task.model_copy(update={"modality": KINDS[name], "window_hu": window_hu})
    dataset = find_cases(real_scans / name)
    cases = {case.name: case for case in dataset.cases[:3]}
    report = ingest_cases(store, dataset, list(cases.values()), task=task)
    assert (report.added, report.quarantined) == (len(cases), ())
    for row in list_scans(store):
        case = cases[row.case]
        assert case.label is not None
        assert row.reference_key is not None
        label = nib.load(case.label)
        wanted = np.asarray(label.dataobj).reshape(label.shape[:3])
        reference = load_array(store, row.reference_key)
        for suffix in (".nii.gz", ".nrrd"):
            path = tmp_path / f"{row.scan_id}{suffix}"
            write_volume_like(path, reference, row.original)
            found = read_volume([path])
            np.testing.assert_array_equal(found.array[0], wanted)
            np.testing.assert_allclose(found.affine, nib.load(case.images[0]).affine, atol=1e-4)
        scan = load_scan(store, row.scan_id)
        assert scan.image.shape == (1, *row.geometry.shape)
        assert nib.aff2axcodes(np.asarray(row.geometry.affine)) == ("R", "A", "S")
        spacing_mm = np.sort(label.header.get_zooms()[:3])
        np.testing.assert_allclose(np.sort(row.geometry.spacing_mm), spacing_mm, rtol=1e-4)
