"""A small store, a small plan, and volumes of a few voxels written as real files."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import list_scans
from client.store.store import Store, create_store
from common.plan import FederationPlan, Task

SaveNifti = Callable[..., Path]


def pytest_configure(config: pytest.Config) -> None:
    """Names the marker of the tests that need the real scans beside the project."""
    config.addinivalue_line("markers", "real_scans: needs the real scans beside the project")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store of hospital "north"."""
    return create_store(tmp_path / "store", "north")


@pytest.fixture
def plan() -> FederationPlan:
    """Two labels, two MR tasks."""
    task = {"modality": "MR", "plane": "axial", "rounds": 1}
    network = {"channels": [4, 8], "strides": [2]}
    return FederationPlan.model_validate(
        {
            "name": "test",
            "labels": [{"name": "organ", "index": 1}, {"name": "left-lobe", "index": 2}],
            "tasks": [
                {"name": "first", "classes": ["organ"], **task},
                {"name": "second", "classes": ["left-lobe"], **task},
            ],
            "segmenter": network,
            "student": network,
            "training": {"patch_size": [8, 8, 8]},
            "limits": {"hospitals": 1},
        }
    )


@pytest.fixture
def task(plan: FederationPlan) -> Task:
    """The plan's first task."""
    return plan.tasks[0]


@pytest.fixture
def save_nifti() -> SaveNifti:
    """Writes an array as NIfTI, with folders as needed."""

    def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)
        return path

    return save


@pytest.fixture
def plain_folder(tmp_path: Path, save_nifti: SaveNifti) -> Path:
    """Three plain pairs, labels 1 and 2 without names."""
    folder = tmp_path / "data"
    for number in range(3):
        rng = np.random.default_rng(number)
        image = rng.normal(size=(5, 6, 4)).astype(np.float32)
        label = rng.integers(0, 3, size=(5, 6, 4)).astype(np.uint8)
        save_nifti(folder / "images" / f"case{number}.nii.gz", image)
        save_nifti(folder / "labels" / f"case{number}.nii.gz", label)
    return folder


@pytest.fixture
def scan_ids(store: Store, task: Task, plain_folder: Path) -> list[str]:
    """The ids of the plain pairs' scans, ingested for the first task."""
    dataset = find_cases(plain_folder)
    ingest_cases(store, dataset, dataset.cases, task=task)
    return [scan.scan_id for scan in list_scans(store)]
