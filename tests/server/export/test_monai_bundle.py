"""A bundle comes to our own labels, on scans as hospitals have them, with MONAI alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from client.prediction.model import Model, Role
from client.prediction.outcome import predict
from client.store.normalise import normalise
from client.store.orientation import OriginalGeometry, from_ras, to_ras
from common.networks.unet import build_networks
from common.plan import FederationPlan
from common.released_models import ReleaseRecord
from common.scans import Geometry, Scan
from common.window_overlap import WINDOW_OVERLAP
from server.export.monai_bundle import write_bundle

# MONAI's and nibabel's own old habits.
pytestmark = pytest.mark.filterwarnings("ignore")
MakePlan = Callable[..., FederationPlan]

# A sagittal acquisition, tilted by a fifth of a radian, with unequal spacings.
TILT = np.array([[1, 0, 0], [0, np.cos(0.2), -np.sin(0.2)], [0, np.sin(0.2), np.cos(0.2)]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TILT @ np.array([[0, 0, 2.1], [-1.2, 0, 0], [0, -0.9, 0]])
AFFINE[:3, 3] = [-20.0, 30.0, 40.0]


def _task(name: str, **changes: Any) -> dict[str, Any]:
    base = {"name": name, "classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 1}
    return {**base, **changes}


CT = _task("ct", modality="CT", window_hu=[-100, 200])


def _plan(make_plan: MakePlan, task: dict[str, Any], **training: Any) -> FederationPlan:
    return make_plan(
        tasks=[task, {**task, "name": "later", "classes": ["left lobe"]}],
        labels=[{"name": "organ", "index": 1}, {"name": "left lobe", "index": 2}],
        segmenter={"channels": [4, 8, 12], "strides": [2, [2, 1, 2]]},
        training={"patch_size": [12, 8, 12], **training},
    )


def _write_scan(folder: Path, channels: int) -> tuple[np.ndarray, np.ndarray]:
    shape = (17, 21, 13) if channels == 1 else (17, 21, 13, channels)
    image = np.random.default_rng(0).normal(60, 80, shape).astype(np.float32)
    folder.mkdir()
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "scan.nii.gz")
    return image.reshape(17, 21, 13, channels), AFFINE


def _our_labels(model: Model, path: Path) -> np.ndarray:
    """On the file's own grid, by the steps that a hospital takes."""
    loaded = nib.load(path)
    array = np.asarray(loaded.dataobj, np.float32).reshape(*loaded.shape[:3], -1)
    image, affine = to_ras(np.moveaxis(array, -1, 0), loaded.affine)
    task = model.tasks[0]
    lines = tuple(tuple(map(float, row)) for row in affine)
    scan = Scan(
        "scan",
        normalise(image, task.modality, task.window_hu),
        Geometry(image.shape[1:], lines),
        task.modality,
    )
    labels = predict(model, scan).labels
    original = OriginalGeometry(array.shape[:3], tuple(tuple(map(float, r)) for r in loaded.affine))
    return from_ras(labels, original)


@pytest.mark.parametrize(
    ("task", "training", "channels", "of"),
    [
        (_task("mr"), {}, 1, ("segmenter", 2)),
        (_task("mr"), {"spacing_mm": [1.7, 1.5, 0.8]}, 2, ("segmenter", 1)),
        (CT, {"spacing_mm": [1.0, 2.5, 3.0]}, 1, ("student", 2)),
    ],
    ids=["own grid", "resampled, two channels, one class taught", "CT, student"],
)
def test_a_bundle_predicts_our_labels(
    tmp_path: Path,
    make_plan: MakePlan,
    task: dict[str, Any],
    training: dict[str, Any],
    channels: int,
    of: tuple[Role, int],
) -> None:
    """`of` which network, and of which round."""
    from monai.bundle import run

    role, number = of
    plan = _plan(make_plan, task, **training).model_copy(update={"channels": channels})
    network = build_networks(plan, number)[role]
    record = ReleaseRecord(
        federation=plan.federation, round=number, plan=plan, models_sha256="0" * 64, software="0"
    )
    model = Model(role, record, network, torch.device("cpu"))
    trained = plan.model_copy(update={"tasks": model.tasks})
    bundle, overlap = tmp_path / "bundle", WINDOW_OVERLAP[role]
    write_bundle(bundle, network, getattr(plan, role), trained, {}, overlap=overlap)
    _write_scan(tmp_path / "in", channels)
    run(
        bundle_root=str(bundle),
        config_file=str(bundle / "configs" / "inference.json"),
        dataset_dir=str(tmp_path / "in"),
        output_dir=str(tmp_path / "out"),
        device="$torch.device('cpu')",
    )
    (path,) = (tmp_path / "out").iterdir()
    assert path.name == "scan_labels.nii.gz"
    found = nib.load(path)
    expected = _our_labels(model, tmp_path / "in" / "scan.nii.gz")
    # Of the second stage's class nothing is known after the first one's only round.
    assert np.unique(expected).tolist() == [0, 1, 2][: 1 + number]
    np.testing.assert_array_equal(np.asarray(found.dataobj), expected)
    np.testing.assert_allclose(found.affine, AFFINE, atol=1e-5)
    assert found.get_data_dtype() == np.uint8
