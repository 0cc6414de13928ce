"""One round at a hospital, in reading order. Knows no Flower and no socket: bytes in, bytes out.

    spread new labels -> score the incoming model -> choose what to train on -> let the segmenter
    join the labels if it earned it -> train the segmenter with replay -> train the student on it ->
    remember -> check what leaves -> commit

Hospital state is versioned by (federation, round): round r starts from the committed r - 1, and the
same request asked again gets the stored reply, so nothing counts twice.
"""

import hashlib
import logging
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np
import torch
from monai.networks.nets import UNet
from torch.nn import Module

from client.label_engine import join_segmenter, label_maker, spread_new
from client.learning.batches import Batch, draw_batches
from client.learning.device import DeviceChoice, choose_device
from client.learning.evaluate import score_painted_slices
from client.learning.examples import Example
from client.learning.replay import group_of, offer
from client.learning.train import learning_rate_at
from client.learning.train_models import train_segmenter, train_student
from client.outgoing import let_out, note_that_it_leaves
from client.self_learning import learn_round
from client.store.annotations import latest_annotations
from client.store.audit import write_audit
from client.store.label_maps import load_label_map
from client.store.rounds import (
    HospitalState,
    Remembered,
    commit_round,
    find_reply,
    load_state,
)
from client.store.scans import count_quarantined, list_scans, load_scan
from client.store.store import Store
from common.errors import OneSliceError
from common.networks.unet import (
    SEGMENTER,
    STUDENT,
    build_networks,
    load_arrays,
    networks_to_arrays,
)
from common.plan import FederationPlan, Task
from common.random_streams import generator, stream_seed
from common.scans import SliceAnnotation
from common.updates import (
    Arrays,
    LocalUpdate,
    Note,
    Outcome,
    RoundRequest,
    TaskScore,
    decode_request,
    decode_update,
    encode_update,
    trained_in,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hospital:
    """A hospital's store and where it computes."""

    store: Store
    device: DeviceChoice = "auto"


@dataclass(frozen=True)
class Labelled:
    """A hospital's annotated scans of the tasks so far, by task: to train on, and held back."""

    training: dict[str, list[str]]
    held_back: dict[str, list[SliceAnnotation]]


@dataclass(frozen=True)
class Material:
    """What a round trains on: the newest task that is still open, or none, and the memory."""

    task: Task | None
    current: list[str]
    remembered: list[str]

    @property
    def outcome(self) -> Outcome:
        """What the round will have been."""
        if self.task is not None:
            return "trained"
        return "replay_only" if self.remembered else "abstained"


def answer(hospital: Hospital, request: bytes) -> bytes:
    """The reply to a request. Never raises for an error of ours or of the data.

    What went wrong stays in the hospital's log and audit; only a fixed sentence leaves.
    """
    try:
        return _answer(hospital, request)
    except Exception as error:
        log.exception("%s could not answer", hospital.store.hospital)
        _audit_failure(hospital, error)
        reason = "see the hospital's log"
        if isinstance(error, OneSliceError):
            reason = f"{type(error).__name__}: {reason}"
        note = Note(hospital=hospital.store.hospital, outcome="failed", reason=reason)
        return encode_update(LocalUpdate({}, note))


def _answer(hospital: Hospital, data: bytes) -> bytes:
    request, arrays = decode_request(data)
    store, plan = hospital.store, request.plan
    if request.action == "hello":
        note = Note(hospital=store.hospital, outcome="greeted", round=request.round)
        return let_out(store, LocalUpdate({}, note), arrays)
    if request.action == "score":
        return let_out(store, score_round(hospital, request, arrays), arrays)
    digest = hashlib.sha256(data).hexdigest()
    stored = find_reply(store, plan.federation, request.round, digest)
    if stored is not None:
        note_that_it_leaves(store, decode_update(stored), stored)
        return stored
    if plan.is_self_learning(request.round):
        update, state = learn_round(store, request, arrays, choose_device(hospital.device))
    else:
        update, state = train_round(hospital, request, arrays)
    reply = let_out(store, update, trained_in(plan, request.round, arrays))
    commit_round(store, state, digest, reply)
    return reply


def score_round(hospital: Hospital, request: RoundRequest, arrays: Arrays) -> LocalUpdate:
    """Scores the incoming segmenter on the held-back scans; nothing is trained or changed."""
    store, plan = hospital.store, request.plan
    device = choose_device(hospital.device)
    labelled = find_labelled(store, plan, plan.stage_of_round(request.round))
    segmenter = build_networks(plan)[SEGMENTER]
    load_arrays(segmenter, arrays, SEGMENTER)
    scores = score_held_back(store, plan, labelled, segmenter, device)
    note = Note(hospital=store.hospital, outcome="scored", round=request.round, scores=scores)
    return LocalUpdate({}, note)


def train_round(
    hospital: Hospital, request: RoundRequest, arrays: Arrays
) -> tuple[LocalUpdate, HospitalState]:
    """The whole round; returns the reply and the state to commit with it."""
    store, plan, number = hospital.store, request.plan, request.round
    device = choose_device(hospital.device)
    stage = plan.stage_of_round(number)
    before = load_state(store, plan.federation, number - 1)
    networks = build_networks(plan)
    for role, network in networks.items():
        load_arrays(network, arrays, role)
    started = time.perf_counter()

    labelled = find_labelled(store, plan, stage)
    maker = label_maker(store, plan, arrays, device)
    spread_new(maker, [one for found in labelled.training.values() for one in found])
    propagated = time.perf_counter()

    scores = score_held_back(store, plan, labelled, networks[SEGMENTER], device)
    scored = time.perf_counter()

    material = choose_material(plan, stage, labelled, before)
    learned_from = (*material.current, *material.remembered)
    join_segmenter(maker, networks[SEGMENTER], learned_from, number, request.held_back_dice)
    joined = time.perf_counter()
    losses = train_models(hospital, request, material, networks, device)
    after = remember(store, plan, before, material, number)
    seconds = {
        "propagate": propagated - started + joined - scored,
        "score": scored - propagated,
        "train": time.perf_counter() - joined,
    }
    measured = {
        "round": number,
        "scores": scores,
        "loss": losses[0],
        "student_loss": losses[1],
        "seconds": seconds,
    }
    note = describe_round(store, plan, labelled, material).model_copy(update=measured)
    trained = {} if material.outcome == "abstained" else networks_to_arrays(networks)
    return LocalUpdate(trained, note), after


def is_held_back(plan: FederationPlan, scan_id: str) -> bool:
    """Whether a scan is kept for scoring: a fixed share, by hash, so that it never changes."""
    drawn = stream_seed(0, "held back", scan_id) / 2**63
    return drawn < plan.training.held_back_share


def find_labelled(store: Store, plan: FederationPlan, stage: int) -> Labelled:
    """The annotated scans of all tasks up to the stage."""
    training: dict[str, list[str]] = {}
    held_back: dict[str, list[SliceAnnotation]] = {}
    for task in plan.tasks[: stage + 1]:
        training[task.name], held_back[task.name] = [], []
        for scan in list_scans(store, task.name):
            annotations = latest_annotations(store, scan.scan_id)
            if not annotations:
                continue
            if is_held_back(plan, scan.scan_id):
                held_back[task.name] += annotations
            else:
                training[task.name].append(scan.scan_id)
    return Labelled(training, held_back)


def score_held_back(
    store: Store,
    plan: FederationPlan,
    labelled: Labelled,
    segmenter: Module,
    device: torch.device,
) -> tuple[TaskScore, ...]:
    """One score for each task that has held-back scans."""
    load = partial(load_scan, store)
    return tuple(
        score_painted_slices(
            segmenter, annotations, load, plan, plan.task_named(name), device=device
        )
        for name, annotations in labelled.held_back.items()
        if annotations
    )


def choose_material(
    plan: FederationPlan, stage: int, labelled: Labelled, state: HospitalState
) -> Material:
    """The newest task with enough scans that no earlier stage has trained; and the memory.

    A task that was trained in an earlier stage is over: its scans come back through the memory
    only. A hospital that lags behind trains the task it has now in the stage that runs now.
    """
    for task in reversed(plan.tasks[: stage + 1]):
        scans = labelled.training[task.name]
        is_open = state.tasks_trained.get(task.name, stage) == stage
        if is_open and len(scans) >= plan.training.min_annotated_scans:
            return Material(task, scans, _remembered(state, without=task.name))
    return Material(None, [], _remembered(state, without=None))


def _remembered(state: HospitalState, without: str | None) -> list[str]:
    return [entry.scan_id for entry in state.memory.entries if entry.task != without]


def train_models(
    hospital: Hospital,
    request: RoundRequest,
    material: Material,
    networks: dict[str, UNet],
    device: torch.device,
) -> tuple[float | None, float | None]:
    """Trains the segmenter, then the student on it, in place; their mean losses."""
    if material.outcome == "abstained":
        return None, None
    store, plan = hospital.store, request.plan

    @cache
    def load(scan_id: str) -> Example:
        labels = load_label_map(store, scan_id, plan.federation)
        return Example(load_scan(store, scan_id), labels, plan.num_classes)

    def batches(role: str, steps: int) -> Iterator[Batch]:
        rng = generator(plan.seed, store.hospital, request.round, "batches", role)
        scans = (material.current, material.remembered)
        return draw_batches(*scans, load, plan, steps=steps, rng=rng)

    rate = learning_rate_at(plan.training, plan.share_of_stage_done(request.round))
    loss = train_segmenter(
        networks[SEGMENTER],
        batches(SEGMENTER, plan.training.steps_per_round),
        plan.training,
        learning_rate=rate,
        proximal_mu=request.proximal_mu,
        device=device,
    )
    student_loss = train_student(
        networks[STUDENT],
        networks[SEGMENTER],
        batches(STUDENT, plan.training.student_steps_per_round),
        plan.training,
        learning_rate=rate,
        device=device,
    )
    return loss, student_loss


def remember(
    store: Store, plan: FederationPlan, before: HospitalState, material: Material, number: int
) -> HospitalState:
    """The state after this round: scans that trained for the first time are offered to memory."""
    after = replace(before, federation=plan.federation, round=number)
    task = material.task
    if task is None:
        return after
    newcomers = [
        Remembered(scan_id, task.name, group_of(task.name, _painted_areas(store, scan_id)))
        for scan_id in material.current
    ]
    rng = generator(plan.seed, store.hospital, number, "memory")
    memory = offer(before.memory, newcomers, budget=plan.replay.budget_scans, rng=rng)
    stage = plan.stage_of_round(number)
    trained = {**before.tasks_trained, task.name: stage}
    return replace(after, memory=memory, tasks_trained=trained)


def _painted_areas(store: Store, scan_id: str) -> dict[int, int]:
    """Pixels of each class on the scan's painted slices."""
    areas: dict[int, int] = {}
    for annotation in latest_annotations(store, scan_id):
        values, counts = np.unique(annotation.mask, return_counts=True)
        for value, count in zip(values.tolist(), counts.tolist(), strict=True):
            if value > 0:
                areas[value] = areas.get(value, 0) + count
    return areas


def describe_round(
    store: Store, plan: FederationPlan, labelled: Labelled, material: Material
) -> Note:
    """The counts of a round: what there is, what was used, what was left out."""
    tasks = list(labelled.training)
    scans = {name: list_scans(store, name) for name in tasks}
    voxels = {
        name: sum(int(np.prod(scan.geometry.shape)) for scan in scans[name]) for name in tasks
    }
    registered = sum(len(found) for found in scans.values())
    annotated = {scan_id for found in labelled.training.values() for scan_id in found}
    annotated |= {one.ref.scan_id for found in labelled.held_back.values() for one in found}
    used, replayed = len(material.current), len(material.remembered)
    return Note(
        hospital=store.hospital,
        outcome=material.outcome,
        reason="" if material.outcome != "abstained" else "no annotated scan to train on",
        task=material.task.name if material.task else None,
        num_examples=used + replayed,
        scans_per_task={name: len(found) for name, found in scans.items()},
        voxels_per_task=voxels,
        used=used,
        replayed=replayed,
        skipped=registered - len(annotated),
        quarantined=count_quarantined(store, None),
        annotated_slices=sum(len(latest_annotations(store, one)) for one in sorted(annotated)),
    )


def _audit_failure(hospital: Hospital, error: Exception) -> None:
    try:
        write_audit(hospital.store, "failed", {"error": "".join(traceback.format_exception(error))})
    except OneSliceError:
        # The store may be what failed; the process's log has the error already.
        log.warning("the failure could not be written to the audit log")
