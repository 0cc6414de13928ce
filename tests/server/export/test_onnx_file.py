"""ONNX Runtime comes to PyTorch's numbers, on patches of any number and size."""

import copy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from monai.networks.nets import UNet
from torch.nn import PReLU

from common.errors import ReleaseError, SettingsError
from common.networks.unet import build_networks, keep_silent
from common.plan import FederationPlan
from server.export.onnx_file import _largest_difference, write_onnx

MakePlan = Callable[..., FederationPlan]


@pytest.fixture(scope="module")
def plan() -> FederationPlan:
    """Unequal strides, two channels, residual units, and one voxel at the deepest on an axis."""
    network = {"channels": [3, 4, 6], "strides": [[2, 2, 1], [2, 3, 2]], "residual_units": 1}
    task = {"name": "t", "classes": ["organ"], "modality": "MR", "plane": "axial", "rounds": 1}
    return FederationPlan.model_validate(
        {
            "name": "small",
            "labels": [{"name": "organ", "index": 1}],
            "tasks": [task],
            "channels": 2,
            "segmenter": network,
            "student": network,
            "training": {"patch_size": [12, 12, 2]},
            "limits": {"hospitals": 1},
        }
    )


@pytest.fixture(scope="module")
def network(plan: FederationPlan) -> torch.nn.Module:
    """Every activation has a slope of its own, as after training."""
    network = build_networks(plan)["student"].eval()
    slopes = [one for one in network.modules() if isinstance(one, PReLU)]
    for number, one in enumerate(slopes):
        torch.nn.init.constant_(one.weight, 0.1 * (number + 1))
    return network


@pytest.fixture(scope="module")
def written(
    tmp_path_factory: pytest.TempPathFactory, plan: FederationPlan, network: torch.nn.Module
) -> SimpleNamespace:
    """The file, and what its writer said of it."""
    path = tmp_path_factory.mktemp("onnx") / "student.onnx"
    difference = write_onnx(path, network, plan.student, plan, {"round": "4"})
    return SimpleNamespace(path=path, difference=difference)


@pytest.mark.parametrize("shape", [(1, 2, 12, 12, 2), (3, 2, 4, 18, 8), (2, 2, 32, 6, 14)])
def test_the_same_numbers(
    written: SimpleNamespace, network: torch.nn.Module, shape: tuple[int, ...]
) -> None:
    session = onnxruntime.InferenceSession(written.path, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    (found,) = session.run(["logits"], {"image": image})
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max(), rtol=0)


def test_slopes_are_constants_in_the_file_alone(
    written: SimpleNamespace, network: torch.nn.Module
) -> None:
    slopes = [one.weight.item() for one in network.modules() if isinstance(one, PReLU)]
    nodes = onnx.load(written.path).graph.node
    found = [node.attribute[0].f for node in nodes if node.op_type == "LeakyRelu"]
    assert found == pytest.approx(slopes)
    assert "PRelu" not in {node.op_type for node in nodes}


def test_a_silent_class_is_silent_in_the_file(
    tmp_path: Path, plan: FederationPlan, network: torch.nn.Module
) -> None:
    silent = copy.deepcopy(network)
    assert isinstance(silent, UNet)
    keep_silent(silent, [1])
    path, image = tmp_path / "silent.onnx", np.ones((1, 2, 12, 12, 2), dtype=np.float32)
    difference = write_onnx(path, silent, plan.student, plan, {})
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"image": image})
    with torch.inference_mode():
        expected = network(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(found[:, 0], expected[:, 0], atol=1e-5)
    np.testing.assert_allclose(found[:, 1], expected[:, 1] - 1e4, rtol=1e-6)
    # As a share of the largest logit of those that speak, and of these alone.
    assert difference is not None
    assert 1e-9 < difference < 1e-5


def test_what_the_file_tells(written: SimpleNamespace) -> None:
    model = onnx.load(written.path)
    onnx.checker.check_model(model, full_check=True)
    assert {one.key: one.value for one in model.metadata_props} == {"round": "4"}
    # Nothing of the machine that wrote it.
    assert b".py" not in written.path.read_bytes()
    assert 0 < written.difference < 1e-4
    sides = [
        axis.dim_param or axis.dim_value for axis in model.graph.input[0].type.tensor_type.shape.dim
    ]
    assert sides == ["patches", 2, "4*steps_i", "6*steps_j", "2*steps_k"]


def test_other_numbers_are_refused(written: SimpleNamespace, plan: FederationPlan) -> None:
    other = build_networks(plan.model_copy(update={"seed": 1}))["student"].eval()
    with pytest.raises(ReleaseError, match=r"differ from PyTorch's by .* expected 0\.0001 at most"):
        _largest_difference(written.path.read_bytes(), other, plan.student, plan)


def test_what_is_not_installed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: SimpleNamespace,
    plan: FederationPlan,
    network: torch.nn.Module,
) -> None:
    monkeypatch.setattr("server.export.onnx_file._is_installed", lambda name: name == "onnx")
    with pytest.raises(SettingsError, match=r"needs onnxscript: pip install 'oneslice\[export\]'"):
        write_onnx(tmp_path / "student.onnx", network, plan.student, plan, {})
    assert list(tmp_path.iterdir()) == []
    assert _largest_difference(written.path.read_bytes(), network, plan.student, plan) is None
