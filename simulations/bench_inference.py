"""How quick, how large and how hungry both models are: `python -m simulations.bench_inference`.

Weights are random, which costs what trained ones do. ONNX files are those that a coordinator
exports; both engines have two threads, predict the same volumes and take turns.
"""

import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from onnxruntime import InferenceSession, SessionOptions
from torch import Tensor
from torch.nn import Module

from client.learning.predict import predict_labels
from client.learning.predict_in_slabs import predict_in_slabs
from common.networks.unet import SEGMENTER, STUDENT, build_networks
from common.plan import FederationPlan
from common.random_streams import generator
from common.scans import Geometry, Scan
from common.window_overlap import WINDOW_OVERLAP
from server.export.onnx_file import write_onnx
from simulations.process_memory import peak_mb
from simulations.scenario import read_scenario

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
THREADS = 2
Shape = tuple[int, int, int]
TIMED: Shape = (128, 128, 128)
LARGE: Shape = (256, 256, 128)


class OnnxNetwork(Module):
    """An exported network, to be called as the one that it came from."""

    def __init__(self, path: Path) -> None:
        """Opens the file."""
        super().__init__()
        options = SessionOptions()
        options.intra_op_num_threads = THREADS
        # Its threads would wait in a loop and take the processor from those that blend windows.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def forward(self, image: Tensor) -> Tensor:
        """Logits (B, N, I, J, K)."""
        (logits,) = self.session.run(["logits"], {"image": image.numpy()})
        return torch.from_numpy(logits)


@app.command()
def main(
    scenario: Annotated[str, typer.Option(help="Whose networks and patches.")] = (
        "hippocampus_stream"
    ),
    repeats: Annotated[int, typer.Option(help="Volumes per model and engine.")] = 3,
) -> None:
    """Parameters, seconds per volume by PyTorch and by ONNX, and peak memory."""
    torch.set_num_threads(THREADS)
    plan = read_scenario(scenario).plan
    networks = build_networks(plan)
    sizes = {role: sum(one.numel() for one in n.parameters()) for role, n in networks.items()}
    for role, size in sizes.items():
        print(f"{role:<10}{size:>12,} parameters")
    print(f"student to segmenter: 1 to {sizes[SEGMENTER] / sizes[STUDENT]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        paths = _export(plan, networks, Path(folder))
        _print_seconds(plan, networks, paths, repeats)
        _print_memory(scenario, paths)


def _export(plan: FederationPlan, networks: dict[str, Module], folder: Path) -> dict[str, Path]:
    paths = {}
    for role, size in ((SEGMENTER, plan.segmenter), (STUDENT, plan.student)):
        paths[role] = folder / f"{role}.onnx"
        write_onnx(paths[role], networks[role], size, plan, {})
    return paths


def _print_seconds(
    plan: FederationPlan, networks: dict[str, Module], paths: dict[str, Path], repeats: int
) -> None:
    """Side by side: a machine that is busy with something else slows all of them alike.

    Processor seconds are the threads' own work, whatever else the machine does.
    """
    jobs = _jobs(plan, networks, paths)
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    worked: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            started, before = time.perf_counter(), time.process_time()
            job()
            spent[name].append(time.perf_counter() - started)
            worked[name].append(time.process_time() - before)
    print(f"a volume of {_written(TIMED)}, {THREADS} threads, median of {repeats}")
    for name in jobs:
        both = median(spent[name]), median(worked[name])
        print(f"  {name:<20}{both[0]:8.2f} s, {both[1]:.2f} processor seconds")
    for what, slow, quick in (
        ("student to segmenter, PyTorch", f"{SEGMENTER}, PyTorch", f"{STUDENT}, PyTorch"),
        ("student to segmenter, command", f"{SEGMENTER}, command", f"{STUDENT}, command"),
        ("student, ONNX to PyTorch", f"{STUDENT}, PyTorch", f"{STUDENT}, ONNX"),
        ("segmenter, ONNX to PyTorch", f"{SEGMENTER}, PyTorch", f"{SEGMENTER}, ONNX"),
    ):
        print(f"  {what:<30}{_ratio(spent[slow], spent[quick]):6.2f} times as quick")


def _jobs(
    plan: FederationPlan, networks: dict[str, Module], paths: dict[str, Path]
) -> dict[str, Callable[[], object]]:
    """By each engine with the same overlap of windows, and as `hospital predict` does it."""
    scan, cpu = _scan(plan, TIMED), torch.device("cpu")
    jobs: dict[str, Callable[[], object]] = {}
    for role, overlap in WINDOW_OVERLAP.items():
        network, onnx = networks[role], OnnxNetwork(paths[role])
        jobs[f"{role}, PyTorch"] = partial(predict_labels, network, scan, plan.training, device=cpu)
        jobs[f"{role}, ONNX"] = partial(predict_labels, onnx, scan, plan.training, device=cpu)
        jobs[f"{role}, command"] = partial(_by_slabs, network, scan, plan, overlap, cpu)
    return jobs


def _by_slabs(
    network: Module, scan: Scan, plan: FederationPlan, overlap: float, device: torch.device
) -> None:
    for _ in predict_in_slabs(network, scan, plan, overlap=overlap, device=device):
        pass


def _ratio(slow: Sequence[float], quick: Sequence[float]) -> float:
    """The median over the turns."""
    return median(one / other for one, other in zip(slow, quick, strict=True))


def _print_memory(scenario: str, paths: dict[str, Path]) -> None:
    """Each in a process of its own, since a process keeps its peak."""
    print(f"peak memory of the process, a volume of {_written(LARGE)}")
    context = multiprocessing.get_context("spawn")
    for role in (SEGMENTER, STUDENT):
        for engine, path in (("PyTorch", None), ("ONNX", paths[role])):
            with context.Pool(1) as pool:
                before, peak = pool.apply(_peaks_mb, (scenario, role, path))
            told = f"{peak:8.0f} MB, {before:.0f} of them before it begins"
            print(f"  {f'{role}, {engine}':<20}{told}", flush=True)


def _peaks_mb(scenario: str, role: str, path: Path | None) -> tuple[float, float]:
    """The peak of this process before it predicts and after."""
    torch.set_num_threads(THREADS)
    plan = read_scenario(scenario).plan
    model = build_networks(plan)[role] if path is None else OnnxNetwork(path)
    scan = _scan(plan, LARGE)
    before = peak_mb()
    predict_labels(model, scan, plan.training, device=torch.device("cpu"))
    return before, peak_mb()


def _scan(plan: FederationPlan, shape: Shape) -> Scan:
    """Noise on the grid that the plan trains on."""
    rng = generator(0, "bench inference")
    image = rng.standard_normal((plan.channels, *shape), dtype=np.float32)
    sides = (*(plan.training.spacing_mm or (1.0, 1.0, 1.0)), 1.0)
    affine = tuple(tuple(map(float, row)) for row in np.diag(sides))
    return Scan("noise", image, Geometry(shape, affine), "MR")


def _written(shape: Shape) -> str:
    return " x ".join(map(str, shape))


if __name__ == "__main__":
    app()
