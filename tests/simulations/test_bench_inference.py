"""What the bench of predictions measures; the timing itself needs a quiet machine."""

from pathlib import Path

import numpy as np
import torch

from client.learning.predict import predict_labels
from common.networks.unet import build_networks
from common.plan import NetworkSize
from server.export.onnx_file import write_onnx
from simulations.bench_inference import OnnxNetwork, _ratio, _scan
from simulations.scenario import read_scenario


def test_both_engines_predict_the_same_labels(tmp_path: Path) -> None:
    small = NetworkSize(channels=(2, 4), strides=(2,), residual_units=0)
    plan = read_scenario("phantoms").plan.model_copy(update={"student": small})
    network = build_networks(plan)["student"]
    path = tmp_path / "student.onnx"
    write_onnx(path, network, plan.student, plan, {})
    scan = _scan(plan, (20, 40, 30))
    cpu = torch.device("cpu")
    expected = predict_labels(network, scan, plan.training, device=cpu)
    found = predict_labels(OnnxNetwork(path), scan, plan.training, device=cpu)
    assert len(np.unique(expected)) > 1
    # Two classes may be equally likely to the seventh digit.
    assert (found != expected).mean() < 1e-4


def test_a_volume_lies_on_the_grid_that_the_plan_trains_on() -> None:
    plan = read_scenario("cardiac_vendors").plan
    scan = _scan(plan, (6, 5, 4))
    assert scan.geometry.spacing_mm == plan.training.spacing_mm == (2, 2, 1)
    assert (scan.image.shape, scan.image.dtype) == ((1, 6, 5, 4), np.float32)


def test_the_ratio_is_that_of_each_turn() -> None:
    # 2, 4 and 5 times; the ratio of the medians would be 5.
    assert _ratio([2.0, 40.0, 15.0], [1.0, 10.0, 3.0]) == 4.0
