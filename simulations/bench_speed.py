"""How quickly labels are spread, and how that grows: `python -m simulations.bench speed`."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import numpy as np
import torch

from client.learning.device import choose_device
from client.propagation.learn_correspondence import learn_correspondence
from client.propagation.spread_labels import spread_labels
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.plan import Candidate, Propagation
from common.random_streams import generator
from common.scans import Geometry, Scan, SliceAnnotation, SliceRef
from simulations.comparison_plan import comparison_plan

REPEATS = 3
ALL: tuple[Candidate, ...] = ("patches", "correspondence", "registration")


def organ_scan(
    depth: int, side: int, num_classes: int, *, ends: bool
) -> tuple[Scan, SliceAnnotation]:
    """A volume of (depth, side, side) with an organ cut into wedges, its middle slice painted.

    It fills half of each side, as an organ does in a scan that was cropped around it. One that
    `ends` is a ball; one that does not is a tube through all slices, so that all are walked.
    """
    grid = np.indices((depth, side, side), dtype=np.float32)
    middle = [(n - 1) / 2 for n in (depth, side, side)]
    offset = grid - np.array(middle, dtype=np.float32)[:, None, None, None]
    scaled = offset / (np.array([depth, side, side], dtype=np.float32) / 4)[:, None, None, None]
    inside = (scaled[0 if ends else 1 :] ** 2).sum(0) < 1
    turn = (np.arctan2(offset[1], offset[2]) / (2 * np.pi)) % 1
    labels = np.where(inside, 1 + np.minimum(turn * num_classes, num_classes - 1), 0)
    noise = generator(0, "noise").normal(size=labels.shape)
    image = (labels + 0.3 * noise).astype(np.float32)[None]
    scan = Scan("organ", (image - image.mean()) / image.std(), _cube(labels.shape), "MR")
    mask = labels[depth // 2].astype(np.uint8)
    classes = tuple(range(1, num_classes + 1))
    ref = SliceRef("organ", 0, depth // 2)
    return scan, SliceAnnotation(ref, mask, classes, "truth", 0.0)


def time_volumes() -> None:
    """A 128 x 128 x 128 volume with 4 classes; then with an organ on all slices, and half of them.

    An organ that ends is walked to its end only, so its cost would not tell of the slices.
    """
    device = choose_device("auto")
    sizes = {
        "ball": (128, 4, True),
        "tube": (128, 4, False),
        "tube, 64 slices": (64, 4, False),
        "tube, 2 classes": (128, 2, False),
    }
    plans: dict[str, tuple[Candidate, ...]] = {
        "patches": ("patches",),
        "learned": ("correspondence",),
        "all candidates": ALL,
    }
    print(f"device {device}, {torch.get_num_threads()} threads; seconds per volume of 128 x 128")
    for what, candidates in plans.items():
        settings = Propagation(candidates=candidates)
        seconds = {}
        for size, (depth, num_classes, ends) in sizes.items():
            scan, annotation = organ_scan(depth, 128, num_classes, ends=ends)
            network = _fresh_network([scan])

            def spread(
                scan: Scan = scan,
                annotation: SliceAnnotation = annotation,
                network: CorrespondenceNetwork = network,
                settings: Propagation = settings,
            ) -> object:
                return spread_labels(scan, [annotation], settings, network, device=device)

            seconds[size] = _seconds(spread)
        print(f"  {what:<16}" + "".join(f"{size}: {s:6.2f}   " for size, s in seconds.items()))


def time_scans(pairs: Sequence[tuple[Scan, SliceAnnotation]]) -> None:
    """Scans per second, by patches and by all candidates; and the training of the network."""
    device = choose_device("auto")
    scans = [scan for scan, _ in pairs]
    plan = comparison_plan(scans, 1, 0)
    network = build_correspondence(plan.channels, plan.correspondence, 0)
    started = time.perf_counter()
    lines = [(scan, annotation.ref.axis) for scan, annotation in pairs]
    rng = generator(0, "speed")
    learn_correspondence(network, lines, plan, part=(1, 1), rng=rng, device=device)
    print(f"self-learning on {len(scans)} scans   {time.perf_counter() - started:.0f} s")
    kinds: dict[str, tuple[Candidate, ...]] = {"patches": ("patches",), "all candidates": ALL}
    for what, candidates in kinds.items():
        settings = Propagation(candidates=candidates)
        started = time.perf_counter()
        for scan, annotation in pairs:
            spread_labels(scan, [annotation], settings, network, device=device)
        print(f"{what:<16} {len(pairs) / (time.perf_counter() - started):.1f} scans per second")


def _seconds(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        spent.append(time.perf_counter() - started)
    return median(spent)


def _fresh_network(scans: Sequence[Scan]) -> CorrespondenceNetwork:
    plan = comparison_plan(scans, 1, 0)
    return build_correspondence(plan.channels, plan.correspondence, 0)


def _cube(shape: tuple[int, ...]) -> Geometry:
    i, j, k = shape
    affine = tuple(tuple(float(row == column) for column in range(4)) for row in range(4))
    return Geometry((i, j, k), affine)
