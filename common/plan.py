"""The federation's plan: what all hospitals and the coordinator agree on before round 1."""

import hashlib
from typing import Annotated, Literal

from pydantic import Field, model_validator

from common.learning_settings import (
    Distillation,
    FewLabels,
    Release,
    Replay,
    Retention,
    Share,
    Training,
)
from common.printable import PRINTABLE
from common.privacy import Privacy
from common.random_streams import stream_seed
from common.scans import AXIS_OF_PLANE, Modality, Plane, volume_of
from common.settings_file import Settings
from common.strategy import StrategySettings

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9_-]{0,47}"
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
LabelName = Annotated[str, Field(pattern=f"^{PRINTABLE}{{1,64}}$")]
Stride = Annotated[int, Field(ge=1, le=4)]
SliceChoice = Literal["centre", "random", "spread", "representative", "cohort", "doubt", "every"]
Candidate = Literal["patches", "correspondence", "registration"]
Wire = Literal["float32", "float16-deltas"]


class Label(Settings):
    """One structure of the label dictionary. `index` is its value in masks; 0 is background.

    `snomed`: its code in SNOMED CT, digits only.
    """

    name: LabelName
    index: int = Field(ge=1, le=254)
    snomed: str | None = Field(default=None, pattern=r"^[0-9]{1,18}$")
    colour: str = Field(default="#d95f02", pattern=r"^#[0-9a-fA-F]{6}$")


class Task(Settings):
    """One stage of the stream: which scans, which classes are painted on them, on which plane."""

    name: Name
    classes: tuple[LabelName, ...] = Field(min_length=1)
    modality: Modality
    plane: Plane
    rounds: int = Field(ge=1, le=1000)
    window_hu: tuple[float, float] | None = None

    @property
    def axis(self) -> int:
        """The array axis whose slices are painted."""
        return AXIS_OF_PLANE[self.plane]

    @model_validator(mode="after")
    def _check(self) -> "Task":
        if self.modality == "CT" and self.window_hu is None:
            raise ValueError("a CT task needs window_hu = [lowest, highest]")
        if self.window_hu is not None and self.window_hu[0] >= self.window_hu[1]:
            raise ValueError(f"window_hu must ascend, got {list(self.window_hu)}")
        return self


class NetworkSize(Settings):
    """A U-Net: channels per level and the stride between levels, one number or one per axis.

    Eight levels at most: networks of hundreds would be built before anybody saw that they are.
    """

    channels: tuple[Annotated[int, Field(ge=1, le=1024)], ...] = Field(min_length=2, max_length=8)
    strides: tuple[Stride | tuple[Stride, Stride, Stride], ...] = Field(min_length=1)
    residual_units: int = Field(default=1, ge=0, le=4)

    @model_validator(mode="after")
    def _check(self) -> "NetworkSize":
        if len(self.strides) != len(self.channels) - 1:
            raise ValueError(
                f"{len(self.channels)} levels need {len(self.channels) - 1} strides, "
                f"got {len(self.strides)}"
            )
        return self

    @property
    def total_stride(self) -> tuple[int, int, int]:
        """By how much the deepest level is coarser than the input, per axis."""
        total = [1, 1, 1]
        for stride in self.strides:
            for axis, step in enumerate((stride,) * 3 if isinstance(stride, int) else stride):
                total[axis] *= step
        return (total[0], total[1], total[2])


class Annotation(Settings):
    """Which slice of each scan a clinician is asked for, and of how many scans (none: of all)."""

    slice_choice: SliceChoice = "spread"
    scans: int | None = Field(default=None, ge=1)


class Propagation(Settings):
    """How a painted slice is carried through its volume, and how far that counts in training.

    `candidates` vote on where a structure goes on; the patches say where it ends.
    `search_radius_voxels` bounds the movement between neighbouring slices; `temperature` and
    `displacement_penalty` shape the affinity of patches; `smallest_area_share` ends an organ.

    `reach_slices` 0 trains on the painted slices alone. `weight_per_slice` is the trust kept per
    slice of distance.

    From `segmenter_from` on, a mean Dice of the segmenter on the slices that all hospitals hold
    back, it has a say in the labels (none: never); they are made again when it has gained
    `refresh_gain`. Voxels labelled so weigh at most `segmenter_weight`, and less with distance.
    """

    candidates: tuple[Candidate, ...] = ("patches",)
    reach_slices: int = Field(default=0, ge=0, le=10_000)
    weight_per_slice: float = Field(default=0.7, gt=0, le=1)
    search_radius_voxels: int = Field(default=3, ge=1, le=10)
    patch_radius_voxels: int = Field(default=2, ge=0, le=5)
    temperature: float = Field(default=0.5, gt=0)
    displacement_penalty: float = Field(default=0.02, ge=0)
    smallest_area_share: float = Field(default=0.02, ge=0, lt=1)
    segmenter_from: Share | None = None
    refresh_gain: Share = 0.01
    segmenter_weight: Share = 0.7

    @model_validator(mode="after")
    def _check(self) -> "Propagation":
        if not self.candidates or len(set(self.candidates)) != len(self.candidates):
            raise ValueError(f"candidates must differ and be one at least, got {self.candidates}")
        return self


class Correspondence(Settings):
    """The network that learns from unlabelled scans which pixels of two slices belong together.

    `rounds` of the federation train it before anything else, over all hospitals; 0: every hospital
    trains its own. `steps` of `batch_size` chains of `chain_slices` slices, cut to `crop_voxels`,
    are what a hospital trains in all. Sizes of the network: `channels`, `layers`,
    `descriptor_length`; `edge_radius_voxels` and `edge_gain` shape what it sees.
    """

    rounds: int = Field(default=0, ge=0, le=1000)
    steps: int = Field(default=600, ge=1, le=1_000_000)
    batch_size: int = Field(default=8, ge=1, le=256)
    chain_slices: int = Field(default=3, ge=2, le=16)
    crop_voxels: int = Field(default=40, ge=8, le=512)
    channels: int = Field(default=32, ge=1, le=512)
    layers: int = Field(default=3, ge=0, le=16)
    descriptor_length: int = Field(default=24, ge=1, le=256)
    edge_radius_voxels: int = Field(default=2, ge=1, le=5)
    edge_gain: float = Field(default=6.0, gt=0)
    learning_rate: float = Field(default=2e-3, gt=0, le=1)
    cycle_weight: float = Field(default=0.1, ge=0)
    own_reconstruction_share: float = Field(default=0.5, ge=0, le=1)


class Limits(Settings):
    """Who must be there and how long the server waits.

    `hospitals`: how many are expected before round 1. `quorum`: the fewest usable replies for a
    round to count. `deadline_s`: the longest a round waits for replies; after a killed client
    process Flower needs about 60 s to notice, so keep it well above 90 in a deployment.
    `patience_s`: for how long the server goes on asking when a quorum did not join or answer,
    before it gives up; 0 in a simulation, hours in a deployment.
    """

    hospitals: int = Field(ge=1, le=10_000)
    quorum: int = Field(default=1, ge=1)
    deadline_s: float = Field(default=3600, gt=0)
    join_deadline_s: float = Field(default=600, gt=0)
    patience_s: float = Field(default=0, ge=0)


class Earlier(Settings):
    """The federation that a plan goes on from, and after which of its rounds."""

    federation: Annotated[str, Field(pattern=rf"^{NAME_PATTERN}-[0-9a-f]{{8}}$")]
    round: int = Field(ge=1)


class FederationPlan(Settings):
    """Everything that hospitals and the coordinator agree on.

    With `extends` it goes on from an earlier federation: with its models, its rounds and what
    hospitals remember of it. `common/plan_growth.py` says what may be different. `wire`: hospitals
    send models as they are, or what a round changed in half precision (`common/wire.py`).
    """

    name: Name
    extends: Earlier | None = None
    seed: int = Field(default=0, ge=0, lt=2**63)
    labels: tuple[Label, ...] = Field(min_length=1)
    tasks: tuple[Task, ...] = Field(min_length=1)
    channels: int = Field(default=1, ge=1, le=16)
    segmenter: NetworkSize
    student: NetworkSize
    training: Training
    annotation: Annotation = Annotation()
    propagation: Propagation = Propagation()
    correspondence: Correspondence = Correspondence()
    replay: Replay = Replay()
    retention: Retention = Retention()
    few_labels: FewLabels = FewLabels()
    distillation: Distillation = Distillation()
    release: Release = Release()
    strategy: StrategySettings = StrategySettings()
    privacy: Privacy = Privacy()
    wire: Wire = "float32"
    limits: Limits

    @model_validator(mode="after")
    def _check(self) -> "FederationPlan":
        _check_labels(self)
        _check_prototypes(self)
        _check_pseudo_labels(self)
        _check_patch(self)
        _check_strategy(self.strategy, self.limits)
        _check_privacy(self)
        _check_self_learning(self)
        _check_extends(self)
        return self

    @property
    def federation(self) -> str:
        """A short name that changes whenever the plan does: hospitals keep their state under it."""
        return f"{self.name}-{hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:8]}"

    @property
    def num_rounds(self) -> int:
        """Rounds of the self-learning and of all stages together."""
        return self.correspondence.rounds + sum(task.rounds for task in self.tasks)

    @property
    def begins_after(self) -> int:
        """The last round that an earlier federation has done; 0: there is none before this one."""
        return self.extends.round if self.extends is not None else 0

    @property
    def num_classes(self) -> int:
        """Output channels of the networks: the background and every label."""
        return 1 + len(self.labels)

    def is_self_learning(self, round_number: int) -> bool:
        """Whether a round trains the correspondence network and nothing else."""
        return 1 <= round_number <= self.correspondence.rounds

    def strategy_of_round(self, round_number: int) -> StrategySettings:
        """How a round's models are combined; self-learning takes the plain mean whatever is set."""
        if self.is_self_learning(round_number):
            return StrategySettings(weighing=self.strategy.weighing)
        return self.strategy

    def stage_of_round(self, round_number: int) -> int:
        """The stage (index into `tasks`) of round 1, 2, ...; 0 for those of the self-learning."""
        last = self.correspondence.rounds
        for stage, task in enumerate(self.tasks):
            last += task.rounds
            if round_number <= last:
                return stage
        return len(self.tasks) - 1

    def last_round_of_stage(self, stage: int) -> int:
        """The number of the round that ends a stage."""
        return self.correspondence.rounds + sum(task.rounds for task in self.tasks[: stage + 1])

    def ends_stage(self, round_number: int) -> bool:
        """Whether the self-learning or a stage is over after a round."""
        ends = {self.last_round_of_stage(stage) for stage in range(len(self.tasks))}
        return round_number in ends or 1 <= round_number == self.correspondence.rounds

    def share_of_stage_done(self, round_number: int) -> float:
        """0 in the first round of a stage, towards 1 in its last."""
        stage = self.stage_of_round(round_number)
        into = round_number - 1 - (self.last_round_of_stage(stage) - self.tasks[stage].rounds)
        return min(max(into / max(self.tasks[stage].rounds - 1, 1), 0.0), 1.0)

    def is_held_back(self, scan_id: str) -> bool:
        """Whether a scan is kept for scoring: a fixed share, by hash, so that it never changes.

        The same for all tasks that a volume serves: what one is judged by trains no other.
        """
        return (
            stream_seed(0, "held back", volume_of(scan_id)) / 2**63 < self.training.held_back_share
        )

    def knows_classes_of(self, task: Task) -> bool:
        """Whether all classes of a task were painted for an earlier one, too."""
        earlier = self.tasks[: self.tasks.index(task)]
        return set(task.classes) <= {name for one in earlier for name in one.classes}

    def class_indexes(self, task: Task) -> tuple[int, ...]:
        """Label indexes of a task's classes, ascending."""
        index_of = {label.name: label.index for label in self.labels}
        return tuple(sorted(index_of[name] for name in task.classes))

    def taught_indexes(self, stage: int) -> tuple[int, ...]:
        """Label indexes of the classes of all tasks up to a stage, ascending; of -1: none."""
        tasks = self.tasks[: stage + 1]
        return tuple(sorted({index for task in tasks for index in self.class_indexes(task)}))

    def untaught_indexes(self, round_number: int) -> tuple[int, ...]:
        """Label indexes that no task has taught up to a round's stage, ascending."""
        taught = self.taught_indexes(self.stage_of_round(round_number))
        return tuple(label.index for label in self.labels if label.index not in taught)

    def task_named(self, name: str) -> Task:
        """The task of that name."""
        return next(task for task in self.tasks if task.name == name)


def _check_labels(plan: FederationPlan) -> None:
    indexes = [label.index for label in plan.labels]
    names = [label.name for label in plan.labels]
    if indexes != list(range(1, len(indexes) + 1)):
        raise ValueError(f"label indexes must be 1, 2, 3, ... in order, got {indexes}")
    if len({name.casefold() for name in names}) != len(names):
        raise ValueError(f"label names must differ, got {names}")
    task_names = [task.name for task in plan.tasks]
    if len(set(task_names)) != len(task_names):
        raise ValueError(f"task names must differ, got {task_names}")
    for task in plan.tasks:
        unknown = sorted(set(task.classes) - set(names))
        if unknown:
            raise ValueError(f"task {task.name!r} names classes {unknown}; labels are {names}")
        if len(set(task.classes)) != len(task.classes):
            raise ValueError(f"task {task.name!r} names a class twice: {list(task.classes)}")


def _check_prototypes(plan: FederationPlan) -> None:
    name = plan.strategy.name
    if plan.few_labels.prototypes.weight > 0 and name in ("FedMedian", "FedTrimmedAvg"):
        raise ValueError(
            f"{name} takes the middle of what hospitals send, and a class that few of them have "
            "would never get a prototype: leave out few_labels.prototypes, or take another strategy"
        )


def _check_pseudo_labels(plan: FederationPlan) -> None:
    is_guarded = plan.few_labels.pseudo_labels.teacher_from is not None
    if is_guarded and plan.training.held_back_share == 0:
        raise ValueError(
            "few_labels.pseudo_labels.teacher_from goes by held-back slices, and with "
            "training.held_back_share = 0 there are none: leave out one of the two"
        )
    short = [task.name for task in plan.tasks if task.rounds == 1]
    if plan.few_labels.pseudo_labels.weight > 0 and short:
        raise ValueError(
            "pseudo-labels count for nothing in the first round of a stage, and task "
            f"{short[0]!r} has no other: give it two rounds at least, or leave out "
            "few_labels.pseudo_labels"
        )


def _check_self_learning(plan: FederationPlan) -> None:
    rounds, candidates = plan.correspondence.rounds, plan.propagation.candidates
    if rounds > 0 and "correspondence" not in candidates:
        raise ValueError(
            f"correspondence.rounds = {rounds} would train a network that nothing uses: name "
            f'"correspondence" among propagation.candidates (now {list(candidates)}), or set 0'
        )


def _check_extends(plan: FederationPlan) -> None:
    if plan.begins_after >= plan.num_rounds:
        raise ValueError(
            f"extends.round is {plan.begins_after} and the plan has {plan.num_rounds} rounds in "
            "all: nothing is left to do; append a task at the end of `tasks`"
        )


def _check_patch(plan: FederationPlan) -> None:
    for role, size in (("segmenter", plan.segmenter), ("student", plan.student)):
        steps = size.total_stride
        patch = plan.training.patch_size
        if any(p % s or p // s < 1 for p, s in zip(patch, steps, strict=True)):
            raise ValueError(
                f"patch_size {list(patch)} must be a multiple of the {role}'s total stride "
                f"{list(steps)} on every axis"
            )
        # One voxel left at the deepest level has no variance for the instance norm to divide by.
        if all(p == s for p, s in zip(patch, steps, strict=True)):
            raise ValueError(f"patch_size {list(patch)} leaves the {role} one voxel at its deepest")


def _check_strategy(strategy: StrategySettings, limits: Limits) -> None:
    expected = limits.hospitals
    if limits.quorum > expected:
        raise ValueError(f"quorum {limits.quorum} is more than the {expected} hospitals expected")
    if strategy.name == "FedTrimmedAvg" and int(strategy.trimmed_share * limits.quorum) < 1:
        raise ValueError(
            f"trimmed_share {strategy.trimmed_share} of a quorum of {limits.quorum} cuts nobody; "
            "raise one of them or use FedAvg"
        )
    if limits.quorum < strategy.fewest_models:
        raise ValueError(
            f"{strategy.name} with num_malicious = {strategy.num_malicious} needs at least "
            f"{strategy.fewest_models} replies; limits.quorum is {limits.quorum}"
        )


def _check_privacy(plan: FederationPlan) -> None:
    if not plan.privacy.adds_noise:
        return
    if plan.strategy.name not in ("FedAvg", "FedProx"):
        raise ValueError(
            f"noise is measured for a mean in which every hospital weighs the same: with "
            f"privacy.noise_multiplier use FedAvg or FedProx, not {plan.strategy.name}"
        )
    judges = {
        "propagation.segmenter_from": plan.propagation.segmenter_from,
        "few_labels.pseudo_labels.teacher_from": plan.few_labels.pseudo_labels.teacher_from,
    }
    for name, least in judges.items():
        if least is not None:
            raise ValueError(
                f"{name} needs the hospitals' scores at every hospital, and no noise covers those: "
                "leave it out, or privacy.noise_multiplier"
            )
    if plan.wire != "float32":
        raise ValueError(
            "the epsilon of privacy.noise_multiplier is reckoned for updates as hospitals trained "
            f'them, and wire = "{plan.wire}" rounds them first: set wire = "float32", or leave out '
            "privacy.noise_multiplier"
        )
    if plan.few_labels.prototypes.weight > 0:
        raise ValueError(
            "noise would give a prototype to classes that nobody has seen yet: leave out "
            "few_labels.prototypes, or privacy.noise_multiplier"
        )
