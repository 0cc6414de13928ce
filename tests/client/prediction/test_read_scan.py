"""Scans of the wrong kind are refused with the reason; the others are normalised as at ingest."""

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_dicom import write_series

from client.prediction.model import Model
from client.prediction.read_scan import ScanToPredict, read_scan
from client.store.ingest import ingest_cases
from client.store.loose_scans import find_scans
from client.store.scans import list_scans, load_scan
from client.store.store import create_store
from common.errors import BadScanError
from common.plan import Task

MakeModel = Callable[..., Model]
RNG = np.random.default_rng(0)
HU = RNG.integers(-1000, 1000, size=(5, 6, 7)).astype(np.int16)
GREY = RNG.integers(0, 900, size=(5, 6, 7)).astype(np.int16)
BOTH = {
    "tasks": [
        {"name": name, "classes": [cls], "modality": m, "plane": "axial", "rounds": 2, **window}
        for name, cls, m, window in (
            ("ct", "liver", "CT", {"window_hu": [-100, 100]}),
            ("mr", "lesion", "MR", {}),
        )
    ]
}
MR = {"tasks": [{**task, "modality": "MR", "window_hu": None} for task in BOTH["tasks"]]}


def save(folder: Path, array: np.ndarray) -> Path:
    path = folder / "scan.nii.gz"
    nib.save(nib.Nifti1Image(array, np.diag([1, 2, 3, 1])), path)
    return path


def read(path: Path, model: Model, told: Task | None = None) -> ScanToPredict:
    dataset = find_scans(path, model.record.plan.channels)
    (case,) = dataset.cases
    return read_scan(dataset, case, model, told)


@pytest.mark.parametrize(("array", "changes"), [(HU, {}), (GREY, MR)])
def test_a_scan_is_what_ingest_would_make_of_it(
    tmp_path: Path, make_model: MakeModel, array: np.ndarray, changes: dict[str, object]
) -> None:
    model = make_model(**changes)
    found = read(save(tmp_path, array), model)
    store, dataset = create_store(tmp_path / "store", "north"), find_scans(tmp_path, 1)
    ingest_cases(store, dataset, dataset.cases, task=model.tasks[0])
    (row,) = list_scans(store)
    assert found.scan.scan_id == row.scan_id
    assert (found.scan.geometry, found.original) == (row.geometry, row.original)
    np.testing.assert_array_equal(found.scan.image, load_scan(store, row.scan_id).image)


def test_hounsfield_units_give_ct_away(tmp_path: Path, make_model: MakeModel) -> None:
    path = save(tmp_path, HU)
    with pytest.raises(BadScanError, match=r"takes MR; values that begin at -\d+ look like Houns"):
        read(path, make_model(**MR))
    # Whoever says what it is, is believed.
    model = make_model(**MR)
    assert read(path, model, model.tasks[0]).scan.modality == "MR"


def test_so_does_their_absence(tmp_path: Path, make_model: MakeModel) -> None:
    with pytest.raises(BadScanError, match=r"takes CT; .* no Hounsfield units.*--task first"):
        read(save(tmp_path, GREY), make_model())


def test_dicom_says_what_it_is_and_nobody_can_say_otherwise(
    tmp_path: Path, make_model: MakeModel
) -> None:
    write_series(tmp_path, GREY, modality="MR")
    model = make_model()
    for told in (None, model.tasks[0]):
        with pytest.raises(BadScanError, match="the scan is MR, the model takes CT"):
            read(tmp_path, model, told)
    assert read(tmp_path, make_model(**BOTH)).scan.modality == "MR"


def test_a_data_set_may_say_it_too(tmp_path: Path, make_model: MakeModel) -> None:
    (tmp_path / "imagesTr").mkdir()
    save(tmp_path / "imagesTr", HU)
    description = '{"training": [{"image": "imagesTr/scan.nii.gz"}], "modality": {"0": "MRI"}}'
    (tmp_path / "dataset.json").write_text(description, encoding="utf-8")
    with pytest.raises(BadScanError, match="the scan is MR, the model takes CT"):
        read(tmp_path, make_model())


def test_tasks_that_normalise_differently_must_be_told_apart(
    tmp_path: Path, make_model: MakeModel
) -> None:
    path, model = save(tmp_path, HU), make_model(**BOTH)
    with pytest.raises(BadScanError, match=r"ct: CT, -100 to 100 HU; mr: MR.*with --task"):
        read(path, model)
    assert read(path, model, model.tasks[0]).scan.modality == "CT"
    # Before its round, the second task is none of the model's.
    assert read(path, make_model(number=2, **BOTH)).scan.modality == "CT"


def test_other_channels_are_refused(tmp_path: Path, make_model: MakeModel) -> None:
    save(tmp_path, HU)
    nib.save(nib.Nifti1Image(HU, np.diag([1, 2, 3, 1])), tmp_path / "scan.nii")
    with pytest.raises(BadScanError, match=r"takes 1 channel\(s\), the scan has 2, from 2 file"):
        read(tmp_path, make_model())
