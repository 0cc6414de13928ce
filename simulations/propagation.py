"""The comparison of ways to spread one painted slice: `oneslice simulate propagation`."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from pydantic import Field

from common.errors import SettingsError
from common.scans import AXIS_OF_PLANE, Plane, SliceRef
from common.settings_file import Settings
from simulations.oneslice_methods import FOLDS
from simulations.progress import Progress, counted
from simulations.propagation_methods import Method, choose_methods
from simulations.propagation_scans import (
    LabelledScans,
    PlaneChoice,
    choose_plane,
    load_labelled_scans,
)
from simulations.propagation_scores import Row, Trial, score_scan, summarise
from simulations.propagation_slices import NOT_DRAWN, check_slice_choices, choose_slices, paint
from simulations.propagator import Propagator, TrainingSet

TRAINED_ONCE = (
    "a network that several rows share is trained, and its training counted, in the first"
)


ONE_SCAN = (
    "rows with a segmenter are left out: it labels no scan that it learned from, and there is one"
)


class ComparisonSettings(Settings):
    """What to compare on which scans.

    Attributes:
        methods: names; none: all that can run.
        slice_choices: each gives rows of its own.
        plane: `auto` takes it from the scans' geometry.
        scans: how many of the scored scans to draw; 0: all.
        seeds: repeats of what is drawn or learnt, with `seed`, `seed` + 1, ...
        training_seconds: of `sli2vol`, for each seed; the other networks take fixed steps.
        training_steps: of every learned method instead; repeats exactly.
    """

    methods: tuple[str, ...] = ()
    slice_choices: tuple[str, ...] = ("oracle", "centre", "spread")
    plane: PlaneChoice = "auto"
    scans: int = Field(default=0, ge=0)
    seeds: int = Field(default=1, ge=1)
    seed: int = Field(default=0, ge=0)
    training_seconds: float = Field(default=60, gt=0)
    training_steps: int | None = Field(default=None, ge=1)


@dataclass(frozen=True)
class Comparison:
    """The rows by method and slice choice, the plane with the reason for it, and the footnotes."""

    rows: tuple[Row, ...]
    plane: Plane
    plane_reason: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Bench:
    """What all methods have in common: the scans, and the painted slices by choice and seed."""

    settings: ComparisonSettings
    scans: LabelledScans
    plane: Plane
    painted: dict[tuple[str, int], list[SliceRef]]
    training: dict[int, TrainingSet]

    def seeds_of(self, method: Method, choice: str) -> range:
        """One seed is enough where nothing is drawn."""
        drawn = method.learns or choice not in NOT_DRAWN
        first = self.settings.seed
        return range(first, first + (self.settings.seeds if drawn else 1))


def compare_propagators(
    data: Path, out: Path, settings: ComparisonSettings, progress: Progress
) -> Comparison:
    """Every method from every chosen slice on every scored scan of a labelled folder.

    Args:
        data: a labelled folder: MSD, nnU-Net v2 or plain.
        out: the ingested scans are kept here.
        settings: what to compare.
        progress: told how far it is.

    Raises:
        SettingsError: a method or choice does not exist, or the folder has nothing to score, or too
            little for a method that was named.
    """
    methods = choose_methods(settings.methods)
    check_slice_choices(settings.slice_choices)
    scans = load_labelled_scans(
        data,
        out,
        num_scans=settings.scans,
        seed=settings.seed,
        with_training=any(method.learns for method in methods),
        progress=progress,
    )
    notes = scans.notes
    if scans.training == scans.scored and len(scans.scored) < FOLDS:
        without = _without_segmenter(methods, are_named=bool(settings.methods))
        notes = (*notes, ONE_SCAN) if without != methods else notes
        methods = without
    plane, reason = choose_plane(settings.plane, [row.geometry for row in scans.scored])
    with_labels = any(method.learns_labels for method in methods)
    painted = _painted_slices(scans, plane, settings)
    seeds = range(settings.seed, settings.seed + settings.seeds)
    training = {
        seed: _training_set(scans, plane, settings, seed, with_labels=with_labels) for seed in seeds
    }
    bench = _Bench(settings, scans, plane, painted, training)
    rows = [row for method in methods for row in _run_method(bench, method, progress)]
    several = sum(method.learns for method in methods) > 1
    return Comparison(tuple(rows), plane, reason, (*notes, TRAINED_ONCE) if several else notes)


def _without_segmenter(methods: Sequence[Method], *, are_named: bool) -> tuple[Method, ...]:
    """The methods that need no other scan than the one they label, if nobody asked for others."""
    others = tuple(method for method in methods if not method.learns_labels)
    if are_named and len(others) < len(methods):
        raise SettingsError(
            "a segmenter labels no scan that it learned from, and one scan is too few to leave any "
            f"out: score {FOLDS} at least, or leave out the methods that fuse"
        )
    return others


def _painted_slices(
    scans: LabelledScans, plane: Plane, settings: ComparisonSettings
) -> dict[tuple[str, int], list[SliceRef]]:
    volumes = [scans.scan(row) for row in scans.scored]
    references = [scans.reference(row) for row in scans.scored]
    return {
        (choice, seed): choose_slices(volumes, references, AXIS_OF_PLANE[plane], choice, seed)
        for choice in settings.slice_choices
        for seed in range(settings.seed, settings.seed + settings.seeds)
    }


def _run_method(bench: _Bench, method: Method, progress: Progress) -> list[Row]:
    """A row for each slice choice; the method is prepared once for each seed."""
    settings = bench.settings
    seeds_of = {choice: bench.seeds_of(method, choice) for choice in settings.slice_choices}
    num_trials = sum(len(seeds) for seeds in seeds_of.values())
    on_scan = counted(progress, method.name, num_trials * len(bench.scans.scored))
    trials: dict[str, list[Trial]] = {choice: [] for choice in settings.slice_choices}
    training_s = []
    for seed in sorted({seed for seeds in seeds_of.values() for seed in seeds}):
        started = time.perf_counter()
        propagate = method.prepare(bench.training[seed])
        training_s.append(time.perf_counter() - started if method.learns else 0.0)
        for choice, seeds in seeds_of.items():
            if seed in seeds:
                trial = _run_trial(bench, propagate, bench.painted[choice, seed], on_scan)
                trials[choice].append(trial)
    return [
        summarise(found, bench.scans.names, (method.name, bench.plane, choice), mean(training_s))
        for choice, found in trials.items()
    ]


def _training_set(
    scans: LabelledScans,
    plane: Plane,
    settings: ComparisonSettings,
    seed: int,
    *,
    with_labels: bool,
) -> TrainingSet:
    """One for each seed, shared by all methods: what one of them trains, others need not again."""
    rows, axis = scans.training, AXIS_OF_PLANE[plane]
    volumes = [scans.scan(row) for row in rows]
    annotations = []
    if with_labels:
        references = [scans.reference(row) for row in rows]
        refs = choose_slices(volumes, references, axis, "cohort", seed)
        classes = tuple(scans.names)
        annotations = [paint(one, ref, classes) for one, ref in zip(references, refs, strict=True)]
    return TrainingSet(
        scans=tuple(volumes),
        annotations=tuple(annotations),
        scored_too=rows == scans.scored,
        axis=axis,
        seconds=settings.training_seconds,
        steps=settings.training_steps,
        seed=seed,
    )


def _run_trial(
    bench: _Bench,
    propagate: Propagator,
    painted: list[SliceRef],
    on_scan: Callable[[object], None],
) -> Trial:
    classes = tuple(bench.scans.names)
    scores, seconds = [], []
    for row, ref in zip(bench.scans.scored, painted, strict=True):
        scan, reference = bench.scans.scan(row), bench.scans.reference(row)
        annotation = paint(reference, ref, classes)
        started = time.perf_counter()
        labels = propagate(scan, annotation)
        seconds.append(time.perf_counter() - started)
        scores.append(score_scan(labels.hard(), reference, ref))
        on_scan(row.case)
    return Trial(tuple(scores), mean(seconds))
