"""A hospital of a few tiny scans, and a plan that trains on them in a moment."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from client.annotation.annotator import Annotator, paint_asked_slices
from client.local_round import Hospital
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import read_reference
from client.store.store import Store, create_store
from common.plan import FederationPlan
from common.scans import SliceAnnotation, SliceRef

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
MakeOracle = Callable[[FederationPlan], Annotator]
Paint = Callable[..., None]
SHAPE = (24, 24, 16)
SCANS_PER_TASK = 3


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On tensors this small threads wait for each other more than they work.

    Put back afterwards: another number of threads changes the last bits of what other tests train.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Oracle:
    """Paints what the full label says."""

    def __init__(self, plan: FederationPlan) -> None:
        self.plan = plan

    def paint(self, store: Store, ref: SliceRef, looked_for: tuple[int, ...]) -> SliceAnnotation:
        """The reference on the slice, with only what was looked for."""
        truth = read_reference(store, ref.scan_id, self.plan)[ref.selection]
        mask = np.where(np.isin(truth, looked_for), truth, 0).astype(np.uint8)
        return SliceAnnotation(ref, mask, looked_for, "oracle", 1.0)


@pytest.fixture
def oracle() -> Callable[[FederationPlan], Oracle]:
    """Whoever paints for a plan."""
    return Oracle


@pytest.fixture
def make_plan() -> MakePlan:
    """Two MR tasks of two rounds, networks of a few weights; `changes` go into the plan."""

    def make(**changes: Any) -> FederationPlan:
        size = {"channels": [4, 8], "strides": [2], "residual_units": 1}
        task = {"modality": "MR", "plane": "axial", "rounds": 2}
        values: dict[str, Any] = {
            "name": "tiny",
            "labels": [{"name": "organ", "index": 1}, {"name": "lesion", "index": 2}],
            "tasks": [
                {"name": "first", "classes": ["organ"], **task},
                {"name": "second", "classes": ["lesion"], **task},
            ],
            "segmenter": size,
            "student": {**size, "channels": [2, 4]},
            "training": {
                "patch_size": [16, 16, 8],
                "batch_size": 2,
                "steps_per_round": 2,
                "student_steps_per_round": 1,
                "held_back_share": 0.0,
            },
            "propagation": {"search_radius_voxels": 1, "patch_radius_voxels": 1},
            "replay": {"budget_scans": 4},
            "limits": {"hospitals": 1},
        }
        for key, value in changes.items():
            both_hold_keys = isinstance(value, dict) and isinstance(values.get(key), dict)
            values[key] = {**values[key], **value} if both_hold_keys else value
        return FederationPlan.model_validate(values)

    return make


@pytest.fixture
def make_hospital(tmp_path: Path, make_plan: MakePlan) -> MakeHospital:
    """A hospital's store with scans of both tasks, read from NIfTI files; nothing painted."""

    def make(name: str = "cellar") -> Hospital:
        store = create_store(tmp_path / name, "north")
        for place, task in enumerate(make_plan().tasks):
            folder = tmp_path / f"{name}-{task.name}"
            for number in range(SCANS_PER_TASK):
                write_case(folder, f"patient-{task.name}-{number}", seed=100 * place + number)
            dataset = find_cases(folder)
            ingest_cases(store, dataset, dataset.cases, task=task)
        return Hospital(store, "cpu")

    return make


def write_case(folder: Path, name: str, *, seed: int) -> None:
    """A bright block of organ with a brighter lesion in it."""
    rng = np.random.default_rng(seed)
    label = np.zeros(SHAPE, dtype=np.uint8)
    i, j = (int(start) for start in rng.integers(4, 9, size=2))
    label[i : i + 10, j : j + 10, 3:13] = 1
    label[i + 3 : i + 7, j + 3 : j + 7, 5:11] = 2
    image = (rng.normal(size=SHAPE) + 4 * label).astype(np.float32)
    for kind, array in (("images", image), ("labels", label)):
        (folder / kind).mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(array, np.eye(4)), folder / kind / f"{name}.nii.gz")


@pytest.fixture
def paint(oracle: MakeOracle) -> Paint:
    """Has the slices of the named tasks painted."""

    def do(hospital: Hospital, plan: FederationPlan, *tasks: str) -> None:
        for task in tasks:
            paint_asked_slices(hospital.store, plan, plan.task_named(task), oracle(plan))

    return do
