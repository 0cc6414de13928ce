"""Real files, turned as their scanners left them: results lie on their very grids."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.annotation.dicom_segmentation import read_segmentation
from client.prediction.model import Model
from client.prediction.predict_scans import predict_scans
from client.prediction.results import PredictedBy, open_results
from client.store.loose_scans import find_scans

MakeModel = Callable[..., Model]
MR = [
    {"name": name, "classes": [cls], "modality": "MR", "plane": "axial", "rounds": 2}
    for name, cls in (("first", "liver"), ("second", "lesion"))
]


@pytest.mark.real_scans
@pytest.mark.parametrize("name", ["hippocampus", "spinal_cord", "dicom_series/Study1"])
def test_results_lie_where_the_scan_lies(
    real_scans: Path, tmp_path: Path, make_model: MakeModel, name: str
) -> None:
    if not (real_scans / name).is_dir():
        pytest.skip(f"no real scans called {name}")
    patch = {"patch_size": [32, 32, 16], "batch_size": 2}
    model, dataset = make_model(tasks=MR, training=patch), find_scans(real_scans / name, 1)
    case, out = dataset.cases[0], tmp_path / "out"
    with open_results(out, real_scans / name, PredictedBy.of(model, None)) as results:
        report = predict_scans(
            model, replace(dataset, cases=(case,)), results, None, lambda _: None
        )
    assert (report.predicted, report.set_aside) == ((case.name,), ())
    labels = nib.load(out / f"{case.name}_labels.nii.gz")
    voxels = np.asarray(labels.dataobj)
    assert set(np.unique(voxels)) == {0, 1, 2}  # dark, middling and bright
    if case.stack is None:
        source = nib.load(case.images[0])
        assert labels.shape == source.shape[:3]
        np.testing.assert_allclose(labels.affine, source.affine, atol=1e-4)
        image = np.asarray(source.dataobj).reshape(labels.shape)
        means = [float(image[voxels == index].mean()) for index in (0, 1, 2)]
        assert means == sorted(means)
    else:
        segmentation = read_segmentation(out / f"{case.name}_labels.dcm")
        found = [
            np.count_nonzero(block.values == n) for block in segmentation.blocks for n in (1, 2)
        ]
        assert sum(found) == np.count_nonzero(voxels)
