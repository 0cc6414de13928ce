"""How quickly a hospital trains, beside a bare loop: `python -m simulations.bench training`.

Both train the same network from the same weights on the same scans with the same batch, patch and
augmentation. Ours is a round's own training, reading its scans from the store; the bare loop is
what one writes by hand for scans that already lie in memory.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn import Module

from client.label_engine import label_maker_now, spread_new
from client.learning.augmentation import apply_change, draw_change, region_for
from client.learning.device import choose_device
from client.round_material import Material, choose_material, find_labelled
from client.round_training import load_learners, train_models
from client.store.annotations import latest_annotations
from client.store.rounds import HospitalState
from client.store.scans import load_scan
from client.store.store import Store
from common.networks.unet import SEGMENTER
from common.plan import FederationPlan
from common.random_streams import generator
from common.settings_file import parse_settings
from common.updates import RoundRequest
from server.rounds import first_state
from simulations.progress import Progress
from simulations.run import prepare
from simulations.scenario import Scenario, read_scenario

UNKNOWN = 255  # a voxel that nobody painted
DICE_SMOOTHING = 1.0


@dataclass(frozen=True)
class Spent:
    """Seconds on the clock, and those of this process's processors, which other work leaves out."""

    clock_s: float
    processor_s: float

    def ratio_to(self, other: "Spent") -> tuple[float, float]:
        """How much quicker than another this is: by the clock, by the processors."""
        return other.clock_s / self.clock_s, other.processor_s / self.processor_s


@dataclass(frozen=True)
class PaintedScan:
    """A scan in memory: image (C, I, J, K), labels (I, J, K) with UNKNOWN, the painted voxels."""

    image: Tensor
    labels: Tensor
    painted: np.ndarray


def run_training(
    data: Path, out: Path, repeats: int, steps: int, progress: Progress
) -> list[tuple[float, float]]:
    """Ours as a share of the bare loop's speed, pair by pair: by the clock, by the processors.

    One round of ours, then as many steps of the bare loop, and so on, so that both meet the same
    load. Prints a row for each pair.
    """
    scenario = one_hospital(steps)
    plan, name = scenario.plan, scenario.sites[0]
    store = prepare(scenario, data, out / "training", progress).stores[name]
    device, weights = choose_device("auto"), first_state(plan).arrays
    material = label_scans(store, plan, device)
    scans = [read_painted(store, plan, scan_id) for scan_id in material.current]

    def ours() -> Spent:
        learners = load_learners(plan, 1, weights, None)
        request = RoundRequest(action="train", plan=plan, round=1)
        return spent(lambda: train_models(store, request, material, learners, device))

    def bare() -> Spent:
        network = load_learners(plan, 1, weights, None).networks[SEGMENTER].to(device)
        return spent(lambda: train_bare(network, scans, plan, steps))

    _ = ours(), bare()  # what is loaded and allocated at first
    threads, samples = torch.get_num_threads(), steps * plan.training.batch_size
    print(f"device {device}, {threads} threads, {len(scans)} scans, {samples} samples a time")
    print(f"{'':<12}{'samples/s: ours':>16}{'bare':>8}{'ratio':>8}{'by processor time':>20}")
    ratios = []
    for number in range(1, repeats + 1):
        one, other = ours(), bare()
        ratios.append(one.ratio_to(other))
        speeds = f"{samples / one.clock_s:>16.2f}{samples / other.clock_s:>8.2f}"
        print(f"repeat {number:<5}{speeds}{ratios[-1][0]:>8.3f}{ratios[-1][1]:>20.3f}", flush=True)
    for what, values in zip(
        ("the clock", "processor time"), zip(*ratios, strict=True), strict=True
    ):
        spread = f"{min(values):.3f} to {max(values):.3f}"
        print(f"ratio by {what}: {median(values):.3f} in the middle, {spread} (asked: 0.8)")
    return ratios


def one_hospital(steps: int) -> Scenario:
    """The first stage of the hippocampus stream, with a quarter of its scans at one hospital."""
    values = read_scenario("hippocampus_stream").model_dump()
    plan, first = values["plan"], values["deals"][0]
    plan["tasks"] = plan["tasks"][:1]
    plan["training"].update(steps_per_round=steps, student_steps_per_round=0)
    plan["limits"].update(hospitals=1, quorum=1)
    changes = {"sites": values["sites"][:1], "deals": [{**first, "part": [1, 4]}]}
    return parse_settings(Scenario, {**values, **changes}, "one hospital")


def label_scans(store: Store, plan: FederationPlan, device: torch.device) -> Material:
    """What the first round trains on, its painted slices made into labels."""
    labelled = find_labelled(store, plan, 0)
    material = choose_material(plan, 0, labelled, HospitalState(plan.federation, 0))
    maker, _ = label_maker_now(store, plan, device)
    spread_new(maker, material.current)
    return material


def read_painted(store: Store, plan: FederationPlan, scan_id: str) -> PaintedScan:
    """The scan with its painted slices in a volume in which all else is UNKNOWN."""
    image = torch.from_numpy(np.array(load_scan(store, scan_id).image, dtype=np.float32))
    labels = np.full(image.shape[1:], UNKNOWN, dtype=np.int64)
    for annotation in latest_annotations(store, scan_id):
        labels[annotation.ref.selection] = annotation.mask
    return PaintedScan(image, torch.from_numpy(labels), np.argwhere(labels != UNKNOWN))


def train_bare(
    network: Module, scans: Sequence[PaintedScan], plan: FederationPlan, steps: int
) -> None:
    """The loop that one writes by hand: cross-entropy and Dice on the voxels that were painted."""
    settings, rng = plan.training, generator(plan.seed, "bare loop")
    device = next(network.parameters()).device
    network.train()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    for _ in range(steps):
        chosen = [scans[int(rng.integers(len(scans)))] for _ in range(settings.batch_size)]
        drawn = [cut(scan, plan, rng) for scan in chosen]
        images = torch.stack([image for image, _ in drawn]).to(device)
        classes = torch.stack([classes for _, classes in drawn]).to(device)
        optimiser.zero_grad(set_to_none=True)
        loss = plain_loss(network(images), classes)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        optimiser.step()


def cut(scan: PaintedScan, plan: FederationPlan, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """A changed patch (C, I, J, K) around a painted voxel; its classes (N, I, J, K), 0 unknown."""
    size = plan.training.patch_size
    change = draw_change(plan.training.augmentation, rng)
    region = region_for(size, change)
    centre = scan.painted[rng.integers(len(scan.painted))]
    corner = [int(c) - n // 2 for c, n in zip(centre, region, strict=True)]
    shape = scan.labels.shape
    inside = tuple(
        slice(max(c, 0), min(c + n, s)) for c, n, s in zip(corner, region, shape, strict=True)
    )
    margins = [
        (max(-c, 0), max(c + n - s, 0)) for c, n, s in zip(corner, region, shape, strict=True)
    ]
    padding = [side for pair in reversed(margins) for side in pair]
    image = F.pad(scan.image[:, *inside], padding, mode="replicate")
    known = F.one_hot(scan.labels[inside].clamp(max=plan.num_classes), plan.num_classes + 1)
    classes = F.pad(known.movedim(-1, 0)[:-1].float(), padding)
    return apply_change(image, classes, change, size)


def plain_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice of (B, N, I, J, K), over the voxels where `wanted` is not 0."""
    known = wanted.sum(1, keepdim=True)
    entropy = -(wanted * torch.log_softmax(logits, dim=1)).sum() / known.sum().clamp_min(1e-6)
    probability = torch.softmax(logits, dim=1) * known
    axes = (0, 2, 3, 4)
    overlap = (probability * wanted).sum(axes)[1:]
    total = (probability + wanted).sum(axes)[1:]
    dice = (2 * overlap + DICE_SMOOTHING) / (total + DICE_SMOOTHING)
    return entropy + 1 - dice.mean()


def spent(work: Callable[[], object]) -> Spent:
    """What it takes, on a GPU to its end."""
    before = time.perf_counter(), time.process_time()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return Spent(time.perf_counter() - before[0], time.process_time() - before[1])
