"""One network as an ONNX file, for any number of patches of any size that the network takes.

By PyTorch's exporter over `torch.export`. The older one, over TorchScript, needs no `onnxscript`
but is deprecated.
"""

import copy
import importlib.util
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import LeakyReLU, Module, PReLU

from common.errors import ReleaseError, SettingsError
from common.networks.unet import SILENT
from common.plan import FederationPlan, NetworkSize
from common.whole_file import write_whole

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

# Of the largest logit: single precision gives about 1e-6, a wrong layer about 1.
LARGEST_DIFFERENCE = 1e-4
IMAGE, LOGITS = "image", "logits"


def write_onnx(
    path: Path, network: Module, size: NetworkSize, plan: FederationPlan, facts: dict[str, str]
) -> float | None:
    """Writes `network` from "image" (B, C, I, J, K) to "logits" (B, N, I, J, K), single precision.

    Every side must be a multiple of the network's total stride on that axis. `facts` stand in the
    file's own metadata.

    Returns:
        By how much ONNX Runtime's logits differ from PyTorch's at most, as a share of the largest
        logit; None where ONNX Runtime is not installed.

    Raises:
        SettingsError: what the export takes is not installed.
        ReleaseError: ONNX Runtime comes to other numbers.
        OSError: the file cannot be written.
    """
    missing = [name for name in ("onnx", "onnxscript") if not _is_installed(name)]
    if missing:
        raise SettingsError(
            f"writing ONNX needs {' and '.join(missing)}: pip install 'oneslice[export]'"
        )
    network.eval()
    data = _as_bytes(_export(_with_fixed_slopes(network), size, plan.channels), facts)
    difference = _largest_difference(data, network, size, plan)
    write_whole(path, data)
    return difference


def _with_fixed_slopes(network: Module) -> Module:
    """A copy in which learned slopes of negative values are constants: the same numbers.

    ONNX Runtime takes several times as long for a `PRelu` as for a `LeakyRelu`.
    """
    network = copy.deepcopy(network)
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if isinstance(layer, PReLU) and layer.num_parameters == 1:
                setattr(parent, name, LeakyReLU(layer.weight.item()))
    return network


def _export(network: Module, size: NetworkSize, channels: int) -> "ONNXProgram":
    patches = torch.export.Dim("patches", min=1)
    sides = [torch.export.Dim(f"steps_{axis}", min=1) for axis in "ijk"]
    spatial = {2 + axis: step * sides[axis] for axis, step in enumerate(size.total_stride)}
    # A side of one at any level, or a single patch, would be taken for fixed.
    image = torch.zeros(2, channels, *(2 * step for step in size.total_stride))
    # It tells of each operator of torchvision, which is not needed, that it has not found it.
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own old habits, none of ours
        program = torch.onnx.export(
            network,
            (image,),
            input_names=[IMAGE],
            output_names=[LOGITS],
            dynamo=True,
            dynamic_shapes=({0: patches, **spatial},),
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is only where a file was named
    return program


def _as_bytes(program: "ONNXProgram", facts: dict[str, str]) -> bytes:
    """The file, with `facts` for metadata: of each operator it names the lines of our code."""
    model = program.model_proto
    graph = model.graph
    for one in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        del one.metadata_props[:]
    for weight in graph.initializer:
        del weight.metadata_props[:]
    del model.metadata_props[:]
    for name, fact in facts.items():
        model.metadata_props.add(key=name, value=fact)
    data: bytes = model.SerializeToString()
    return data


def _largest_difference(
    data: bytes, network: Module, size: NetworkSize, plan: FederationPlan
) -> float | None:
    """Tried on the patch that predictions use, and on two patches one step larger."""
    if not _is_installed("onnxruntime"):
        return None
    from onnxruntime import InferenceSession  # noqa: PLC0415  (optional)

    session = InferenceSession(data, providers=["CPUExecutionProvider"])
    patch = plan.training.patch_size
    larger = [side + step for side, step in zip(patch, size.total_stride, strict=True)]
    found = 0.0
    for shape in ((1, plan.channels, *patch), (2, plan.channels, *larger)):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            expected = network(image).numpy()
        (came,) = session.run([LOGITS], {IMAGE: image.numpy()})
        # Beside a silent class any difference would be small; its logits only have to be low.
        speaks = expected > SILENT / 2
        off = np.abs(np.where(~speaks & (came < SILENT / 2), 0.0, came - expected)).max()
        found = max(found, float(off / np.abs(expected[speaks]).max()))
    # Not a number is not less, either.
    if not found <= LARGEST_DIFFERENCE:
        raise ReleaseError(
            f"ONNX Runtime's logits differ from PyTorch's by {found:.1e} of the largest, expected "
            f"{LARGEST_DIFFERENCE:g} at most: use another version of torch, onnxscript or "
            "onnxruntime"
        )
    return found


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None
