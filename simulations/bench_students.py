"""What a student learns from, and which student: `python -m simulations.bench students`.

The segmenter of one finished run of `hippocampus_stream`, and the labels that its hospitals had at
the end. Of these every student is trained anew in one place, so that nothing but the student's own
training differs from row to row.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from client.distillation.pairs import Cohort
from client.learning.device import choose_device
from client.learning.examples import Example
from client.store.label_maps import find_label_map, load_label_map
from client.store.scans import CatalogScan, list_scans, load_scan
from client.store.store import Store, open_store
from common.networks.unet import SEGMENTER, STUDENT, build_networks, load_arrays, networks_to_arrays
from common.plan import FederationPlan
from common.scans import Scan
from common.updates import Arrays
from server.checkpoints import load_state
from server.run_folder import RunFolder
from simulations.evaluate import TrainedModel, score_scans, summarise
from simulations.pooled_training import train_pooled_student

Changes = dict[str, dict[str, Any]]
# At the segmenter's own rate one class came up late in networks without residual units.
QUICKER = 2.5


def _learns(**distillation: float) -> Changes:
    return {"distillation": distillation}


def _sized(*channels: int, residual_units: int) -> Changes:
    strides = (2,) * (len(channels) - 1)
    size = {"channels": channels, "strides": strides, "residual_units": residual_units}
    return {"student": size, **_learns(learning_rate_factor=1.0 if residual_units else QUICKER)}


# What the student learns from: "labels" has plain augmentation alone, "pairs" in its place the
# scans that registration made; then who learns, of the segmenter alone.
ARMS: dict[str, Changes] = {
    "labels": _learns(soft_predictions=0.0, labels=1.0),
    "pairs": _learns(soft_predictions=0.0, pairs=1.0),
    "pairs, hint": _learns(soft_predictions=0.0, pairs=1.0, hint=1.0),
    "soft predictions": {},
    "soft predictions, pairs, hint": _learns(pairs=1.0, hint=1.0),
    "size 8-16-32, residual": _sized(8, 16, 32, residual_units=1),
    "size 8-16-32": _sized(8, 16, 32, residual_units=0),
    "size 12-24-48": _sized(12, 24, 48, residual_units=0),
    "size 4-16-32-32": _sized(4, 16, 32, 32, residual_units=0),
}


@dataclass(frozen=True)
class Finished:
    """A run that has ended: its plan and models, its hospitals' scans, and those to test on."""

    plan: FederationPlan
    arrays: Arrays
    stores: Mapping[str, Store]
    test: Store

    @property
    def test_scans(self) -> list[CatalogScan]:
        """All of the test store's."""
        return list_scans(self.test)

    def dice(self, plan: FederationPlan, arrays: Arrays, role: str) -> float:
        """Mean over classes of the Dice on the test scans."""
        model = TrainedModel(plan, arrays, role)
        return summarise(score_scans(self.test, self.test_scans, model), model).mean_dice or 0.0


@dataclass(frozen=True)
class Trial:
    """One student: its test Dice, as such and as a share of the segmenter's, and its weights."""

    dice: float
    of_segmenter: float
    parameters: int


def load_finished(folder: Path, plan: FederationPlan) -> Finished:
    """A finished run of that plan."""
    state = load_state(RunFolder(folder).checkpoints, plan)
    assert state is not None
    stores = {path.name: open_store(path) for path in sorted((folder / "sites").iterdir())}
    return Finished(plan, state.arrays, stores, open_store(folder / "test"))


def changed(plan: FederationPlan, changes: Changes) -> FederationPlan:
    """The plan with some settings of its sections replaced."""
    values = plan.model_dump()
    for section, settings in changes.items():
        values[section].update(settings)
    return FederationPlan.model_validate(values)


def pool(run: Finished) -> Cohort:
    """The labelled training scans of all hospitals; each may be warped onto others of its task."""
    places: dict[str, tuple[Store, str]] = {}
    for store in run.stores.values():
        for scan in list_scans(store):
            is_labelled = find_label_map(store, scan.scan_id, run.plan.federation) is not None
            if is_labelled and not run.plan.is_held_back(scan.scan_id):
                places[scan.scan_id] = (store, scan.task)

    @cache
    def image(scan_id: str) -> Scan:
        return load_scan(places[scan_id][0], scan_id)

    @cache
    def load(scan_id: str) -> Example:
        labels = load_label_map(places[scan_id][0], scan_id, run.plan.federation)
        return Example(image(scan_id), labels, run.plan.num_classes)

    names = sorted(places)
    others = {
        one: [other for other in names if other != one and places[other][1] == places[one][1]]
        for one in names
    }
    return Cohort(names, [], others, load, image)


def try_student(run: Finished, plan: FederationPlan, steps: int, segmenter_dice: float) -> Trial:
    """Trains a student as a plan says, on the scans and the segmenter of a run."""
    networks, device = build_networks(plan), choose_device("auto")
    load_arrays(networks[SEGMENTER], run.arrays, SEGMENTER)
    train_pooled_student(
        networks[STUDENT],
        networks[SEGMENTER],
        pool(run),
        plan,
        steps=steps,
        stream=("students",),
        device=device,
    )
    arrays = networks_to_arrays(networks)
    parameters = sum(one.numel() for one in networks[STUDENT].parameters())
    dice = run.dice(plan, arrays, STUDENT)
    return Trial(dice, dice / segmenter_dice, parameters)


def compare_arms(runs: Mapping[int, Finished], steps: int, words: str) -> None:
    """Prints a row for each arm whose name holds the words: means and spreads over the seeds."""
    best = {seed: run.dice(run.plan, run.arrays, SEGMENTER) for seed, run in runs.items()}
    federated = [run.dice(run.plan, run.arrays, STUDENT) for run in runs.values()]
    print(f"segmenters: {_listed(best.values())}; their students: {_listed(federated)}")
    head = f"{steps} steps in one place"
    print(f"{head:<31}{'weights':>8}{'mean Dice':>11}{'spread':>8}{'share':>7}")
    for arm, changes in ARMS.items():
        if words not in arm:
            continue
        trials = [
            try_student(run, changed(run.plan, changes), steps, best[seed])
            for seed, run in runs.items()
        ]
        dice = [trial.dice for trial in trials]
        print(
            f"{arm:<31}{trials[0].parameters:>8}{mean(dice):>11.4f}"
            f"{stdev(dice) if len(dice) > 1 else 0.0:>8.4f}"
            f"{mean(trial.of_segmenter for trial in trials):>7.3f}   {_listed(dice)}",
            flush=True,
        )


def _listed(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
