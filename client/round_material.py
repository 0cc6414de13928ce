"""What a round has to train on, what it holds back, and what it remembers of it."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np

from client.few_labels.pseudo_labels import teaching_of
from client.learning.replay import (
    Budget,
    WhoGoes,
    balanced,
    group_of,
    hard,
    offer,
    reservoir,
)
from client.policy import ALLOWS_ALL, Policy
from client.store.annotations import latest_annotations
from client.store.label_maps import training_bytes
from client.store.reviews import flagged_scans
from client.store.rounds import HospitalState, Remembered
from client.store.scans import count_quarantined, list_scans
from client.store.store import Store
from common.plan import FederationPlan, Task
from common.random_streams import generator
from common.scans import SliceAnnotation, volume_of
from common.updates import Outcome, RoundRequest

MEGABYTE = 1e6


@dataclass(frozen=True)
class Labelled:
    """A hospital's annotated scans of the tasks so far, by task: to train on, and held back.

    `unannotated` are those that nobody painted yet and that will not be held back. Scans that a
    reviewer flagged are none of these.
    """

    training: dict[str, list[str]]
    held_back: dict[str, list[SliceAnnotation]]
    flagged: frozenset[str] = frozenset()
    unannotated: Mapping[str, list[str]] = field(default_factory=dict)

    @property
    def training_scans(self) -> list[str]:
        """The scans that may be trained on, task by task."""
        return [scan_id for scan_ids in self.training.values() for scan_id in scan_ids]

    @property
    def held_back_scans(self) -> list[str]:
        """The scans that are scored."""
        return sorted({one.ref.scan_id for held in self.held_back.values() for one in held})


@dataclass(frozen=True)
class Material:
    """What a round trains on: the newest task that is still open, or none, and the memory.

    `unannotated`: scans of the task that serve by their images alone, if any do so in this round.
    """

    task: Task | None
    current: list[str]
    remembered: list[str]
    unannotated: Sequence[str] = ()

    @property
    def outcome(self) -> Outcome:
        """What the round will have been."""
        if self.task is not None:
            return "trained"
        return "replay_only" if self.remembered else "abstained"


def find_labelled(
    store: Store, plan: FederationPlan, stage: int, policy: Policy = ALLOWS_ALL
) -> Labelled:
    """The annotated scans of all tasks up to the stage that the policy allows."""
    training: dict[str, list[str]] = {}
    held_back: dict[str, list[SliceAnnotation]] = {}
    unannotated: dict[str, list[str]] = {}
    flagged = frozenset(flagged_scans(store))
    for task in policy.allowed_tasks(plan.tasks[: stage + 1]):
        training[task.name], held_back[task.name], unannotated[task.name] = [], [], []
        for scan in list_scans(store, task.name):
            annotations = latest_annotations(store, scan.scan_id)
            if scan.scan_id in flagged:
                continue
            if plan.is_held_back(scan.scan_id):
                held_back[task.name] += annotations
            elif annotations:
                training[task.name].append(scan.scan_id)
            else:
                unannotated[task.name].append(scan.scan_id)
    return Labelled(training, held_back, flagged, unannotated)


def choose_material(
    plan: FederationPlan,
    stage: int,
    labelled: Labelled,
    state: HospitalState,
    policy: Policy = ALLOWS_ALL,
    *,
    with_images: bool = False,
) -> Material:
    """The newest task with enough scans that no earlier stage has trained; and the memory.

    A task that was trained in an earlier stage is over: its scans come back through the memory
    only. A hospital that lags behind trains the task it has now in the stage that runs now. Tasks
    that are not in `labelled` do not count, and no model is made from fewer scans than the policy
    asks for, nor from memory alone where the plan replays nothing and keeps it to weigh the weights
    by. The unannotated ones serve only `with_images`.
    """
    allowed, least = set(labelled.training), policy.min_annotated_scans
    for task in reversed(plan.tasks[: stage + 1]):
        scans = labelled.training.get(task.name, [])
        is_open = state.tasks_trained.get(task.name, stage) == stage
        if is_open and len(scans) >= max(plan.training.min_annotated_scans, least):
            others = allowed - {task.name}
            unannotated = labelled.unannotated.get(task.name, []) if with_images else []
            remembered = _remembered(state, others, labelled.flagged)
            return Material(task, scans, remembered, unannotated)
    remembered = _remembered(state, allowed, labelled.flagged)
    volumes = {volume_of(one) for one in remembered}
    replays = plan.replay.share > 0 and len(volumes) >= least
    return Material(None, [], remembered if replays else [])


def serves_images(request: RoundRequest) -> bool:
    """Whether in this round scans that nobody painted serve by their images alone."""
    plan, dice = request.plan, request.held_back_dice
    teaching = teaching_of(plan, plan.share_of_stage_done(request.round), dice)
    teaches = teaching.weight > 0 and plan.few_labels.pseudo_labels.unannotated > 0
    return teaches or plan.distillation.uses_pairs


def _remembered(state: HospitalState, tasks: set[str], flagged: Set[str]) -> list[str]:
    entries = [entry for entry in state.memory.entries if entry.task in tasks]
    return [entry.scan_id for entry in entries if entry.scan_id not in flagged]


def remember(
    store: Store,
    plan: FederationPlan,
    before: HospitalState,
    material: Material,
    number: int,
    hardness: Mapping[str, float] = MappingProxyType({}),
) -> HospitalState:
    """The state after this round: scans that trained for the first time are offered to memory.

    `hardness` as `measure_hardness` found it before the round trained.
    """
    task, tasks_trained, newcomers = material.task, before.tasks_trained, []
    if task is not None:
        tasks_trained = {**tasks_trained, task.name: plan.stage_of_round(number)}
        newcomers = [
            Remembered(scan_id, task.name, group_of(task.name, _painted_areas(store, scan_id)))
            for scan_id in material.current
        ]
    competing = [one.scan_id for one in (*before.memory.entries, *newcomers)]
    memory = offer(
        before.memory,
        newcomers,
        budget=memory_budget(store, plan, competing),
        policy=_replay_policy(store, plan, number, competing, hardness),
    )
    return HospitalState(plan.federation, number, tasks_trained, memory)


def memory_budget(store: Store, plan: FederationPlan, scan_ids: Sequence[str]) -> Budget:
    """The plan's budget, with the sizes of these scans if it counts megabytes."""
    settings = plan.replay
    if settings.budget_mb is None:
        return Budget(settings.budget_scans)
    sizes = {scan_id: training_bytes(store, scan_id, plan.federation) for scan_id in scan_ids}
    return Budget(settings.budget_scans, settings.budget_mb * MEGABYTE, sizes)


def _replay_policy(
    store: Store,
    plan: FederationPlan,
    number: int,
    scan_ids: Sequence[str],
    hardness: Mapping[str, float],
) -> WhoGoes:
    match plan.replay.policy:
        case "reservoir":
            who = (plan.seed, store.hospital, "lot")
            return reservoir({one: generator(*who, one).random() for one in scan_ids})
        case "hard":
            return hard(hardness)
        case "balanced":
            return balanced(generator(plan.seed, store.hospital, number, "memory"))


def _painted_areas(store: Store, scan_id: str) -> dict[int, int]:
    """Pixels of each class on the scan's painted slices."""
    areas: dict[int, int] = {}
    for annotation in latest_annotations(store, scan_id):
        values, counts = np.unique(annotation.mask, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value > 0:
                areas[value] = areas.get(value, 0) + count
    return areas


def count_set_aside(store: Store, plan: FederationPlan, policy: Policy) -> int:
    """Cases that could not be used: all, or those of the tasks that the policy names."""
    if policy.tasks is None:
        return count_quarantined(store)
    return sum(count_quarantined(store, one.name) for one in policy.allowed_tasks(plan.tasks))
