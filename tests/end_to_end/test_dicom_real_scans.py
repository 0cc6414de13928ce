"""Real DICOM series come in where another reader sees them, and their patients stay unnamed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import tomli_w

from client.store.identities import list_identities
from client.store.ingest import read_case
from client.store.layouts import find_cases
from client.store.scans import list_scans
from client.store.store import open_store

ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.real_scans
NETWORK = {"channels": [4, 8], "strides": [2]}
PLAN = {
    "name": "dicom",
    "labels": [{"name": "hippocampus", "index": 1}],
    "tasks": [
        {
            "name": "hippocampus",
            "classes": ["hippocampus"],
            "modality": "MR",
            "plane": "sagittal",
            "rounds": 1,
        }
    ],
    "segmenter": NETWORK,
    "student": NETWORK,
    "training": {"patch_size": [8, 8, 8]},
    "limits": {"hospitals": 1},
}


@pytest.fixture
def dicom_series(real_scans: Path) -> Path:
    """The folder of real series; the test is skipped where there is none."""
    if not (real_scans / "dicom_series").is_dir():
        pytest.skip("no real DICOM series")
    return real_scans / "dicom_series"


def _hospital(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "oneslice", "hospital", *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout + done.stderr


def test_all_series_come_in_and_no_patient_is_named(dicom_series: Path, tmp_path: Path) -> None:
    plan, folder = tmp_path / "plan.toml", tmp_path / "store"
    plan.write_text(tomli_w.dumps(PLAN))
    _hospital("init", "--store", folder, "--name", "north")
    words = ("--store", folder, "--plan", plan, "--task", "hippocampus")
    printed = _hospital("ingest", dicom_series, *words, "--format", "json")
    told = json.loads(printed)
    assert (told["added"], told["quarantined"], told["notes"]) == (6, [], [])
    store = open_store(folder)
    identities = list_identities(store)
    assert list(identities) == [scan.scan_id for scan in list_scans(store)]
    headers = [
        pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
        for folder in dicom_series.glob("*/*")
    ]
    assert sorted(one.patient for one in identities.values()) == sorted(
        str(header.PatientID) for header in headers
    )
    assert sum(path.is_file() for path in folder.rglob("*.npy")) > 0
    for header in headers:
        for secret in (header.PatientID, str(header.PatientName), header.SeriesInstanceUID):
            assert secret not in printed
            for path in folder.rglob("*"):
                if path.is_file() and not path.name.startswith("catalog.sqlite"):
                    assert secret.encode() not in path.read_bytes()


def test_another_reader_sees_the_same_voxels_at_the_same_places(dicom_series: Path) -> None:
    dataset = find_cases(dicom_series)
    assert len(dataset.cases) == 6
    for case in dataset.cases:
        read = read_case(dataset, case)
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(case.images[0].parent)))
        other = reader.Execute()
        values = sitk.GetArrayFromImage(other).transpose(2, 1, 0)
        # RAS order, found by the other reader's own directions.
        lps = np.array(other.GetDirection()).reshape(3, 3)
        order = [int(np.argmax(np.abs(lps[axis]))) for axis in range(3)]
        signs = [np.sign(lps[axis, order[axis]]) * (-1, -1, 1)[axis] for axis in range(3)]
        turned = values.transpose(order)[tuple(slice(None, None, int(sign)) for sign in signs)]
        np.testing.assert_array_equal(read.image[0], turned)
        for corner in np.ndindex(2, 2, 2):
            index = [c * (n - 1) for c, n in zip(corner, read.geometry.shape, strict=True)]
            place = np.asarray(read.geometry.affine) @ [*index, 1]
            turns = zip(index, read.geometry.shape, signs, strict=True)
            ahead = [n if sign > 0 else size - 1 - n for n, size, sign in turns]
            own = [ahead[order.index(axis)] for axis in range(3)]
            wanted = np.array(other.TransformIndexToPhysicalPoint(own)) * [-1, -1, 1]
            np.testing.assert_allclose(place[:3], wanted, atol=1e-4)
