"""One round at a hospital, in reading order. Knows no Flower and no socket: bytes in, bytes out.

    ask the hospital's policy -> spread new labels -> score the incoming model -> choose what to
    train on -> let the segmenter join the labels if it earned it -> train the segmenter with replay
    -> train the student on it -> remember -> check what leaves -> commit

Hospital state is versioned by (federation, round): round r starts from the committed r - 1, and the
same request asked again gets the stored reply, so nothing counts twice.
"""

import hashlib
import json
import logging
import time
import traceback
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import Module

from client.admission import (
    FREE,
    NOT_ALLOWED,
    STOPPED_EARLY,
    NotAllowedError,
    Terms,
    admit,
    check_not_too_often,
)
from client.annotation.annotator import Annotator, paint_asked_slices
from client.approvals import NotApprovedError, check_plan_approved
from client.failures import sentence_of
from client.label_engine import join_segmenter, label_maker, spread_new
from client.learning.device import DeviceChoice, choose_device
from client.learning.evaluate import score_painted_slices
from client.learning.round_clock import NO_LIMIT, OutOfTimeError, RoundClock
from client.outgoing import let_out
from client.policy import Policy, read_policy
from client.retention import find_old_model
from client.round_material import (
    Labelled,
    Material,
    choose_material,
    count_set_aside,
    find_labelled,
    remember,
    serves_images,
)
from client.round_result import RoundResult
from client.round_training import load_learners, train_models
from client.scan_hardness import measure_hardness
from client.self_learning import learn_round
from client.slice_doubt import note_doubts
from client.store.annotations import latest_annotations
from client.store.audit import FAILED, newest_row, write_audit
from client.store.local_names import local_names
from client.store.lock import among_others
from client.store.received_models import keep_received
from client.store.rounds import (
    commit_round,
    find_reply,
    load_state,
)
from client.store.scans import list_scans, load_scan
from client.store.store import Store
from client.store.uses import Uses
from common.errors import OneSliceError, VersionError
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.updates import (
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    TaskScore,
    decode_request,
    decode_update,
    encode_refusal,
    encode_update,
    trained_in,
)
from common.wire import from_wire, to_wire

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hospital:
    """A hospital's store and where it computes.

    `annotator` paints whatever is asked for at once, as in a simulation; people take their time.
    `node` is the folder where the approvals stand; none: every plan is, as in a simulation.
    """

    store: Store
    device: DeviceChoice = "auto"
    annotator: Annotator | None = None
    node: Path | None = None


def answer(hospital: Hospital, request: bytes) -> bytes:
    """The reply to a request. Never raises for an error of ours or of the data.

    What went wrong stays in the hospital's log and audit; only a fixed sentence leaves, or both
    sides' versions if they differ.
    """
    try:
        return answer_or_raise(hospital, request)
    except VersionError as error:
        log.warning("%s refused a request: %s", hospital.store.hospital, error)
        note = Note(
            hospital=hospital.store.hospital,
            outcome="failed",
            reason=str(error),
            protocol=error.protocol,
        )
        if not _is_newest_failure(hospital, note):
            _audit_failure(hospital, error, note)
        return encode_refusal(note)
    except Exception as error:
        log.exception("%s could not answer", hospital.store.hospital)
        note = Note(hospital=hospital.store.hospital, outcome="failed", reason=sentence_of(error))
        # A coordinator greets again and again while it waits; once in the audit log is enough.
        if not isinstance(error, NotApprovedError) or error.is_new:
            _audit_failure(hospital, error, note)
        return encode_update(LocalUpdate({}, note))


def failed_reply(hospital: Hospital, reason: str) -> bytes:
    """The reply of a hospital that could not take a request; `reason` is a fixed sentence."""
    note = Note(hospital=hospital.store.hospital, outcome="failed", reason=reason)
    return encode_update(LocalUpdate({}, note))


def answer_or_raise(hospital: Hospital, data: bytes) -> bytes:
    """The reply to a request, checked and in the audit log.

    Raises:
        OneSliceError: of any kind; nothing has left.
    """
    request, arrays = decode_request(data)
    store = hospital.store
    if hospital.node is not None:
        check_plan_approved(hospital.node, request.plan)
    policy = read_policy(store.folder)
    if request.action == "hello":
        names = local_names(store, request.plan, policy.allowed_tasks(request.plan.tasks))
        note = Note(
            hospital=store.hospital, outcome="greeted", round=request.round, label_names=names
        )
        return let_out(store, LocalUpdate({}, note), arrays, request.plan)
    try:
        with among_others(store):
            # First: whether or not it takes part, a hospital may predict with what came.
            keep_received(store, request, arrays)
            terms = admit(store, request, arrays, policy, datetime.now())
            return _answer_round(hospital, data, terms)
    except (NotAllowedError, OutOfTimeError) as error:
        return _stay_out(store, request, error)


def _answer_round(hospital: Hospital, data: bytes, terms: Terms) -> bytes:
    request, arrays = decode_request(data)
    store, plan = hospital.store, request.plan
    if request.action == "score":
        scored = score_round(hospital, request, arrays, terms)
        return let_out(store, scored, arrays, plan)
    asked = trained_in(plan, request.round, arrays)
    digest = hashlib.sha256(data).hexdigest()
    stored = find_reply(store, plan.federation, request.round, digest)
    if stored is not None:
        return let_out(store, decode_update(stored), asked, plan)
    check_not_too_often(store, plan, terms.policy)
    if plan.is_self_learning(request.round):
        result = learn_round(store, request, arrays, choose_device(hospital.device), terms)
    else:
        old = find_old_model(store, request, arrays, digest)
        result = train_round(hospital, request, arrays, terms, old)
    leaving = to_wire(result.update.arrays, asked, plan.wire)
    reply = let_out(store, replace(result.update, arrays=leaving), asked, plan)
    models = None
    if plan.wire != "float32":
        sent = decode_update(reply)
        models = encode_update(replace(sent, arrays=from_wire(sent.arrays, asked, plan.wire)))
    commit_round(store, result.state, digest, reply, result.uses, models)
    return reply


def _stay_out(store: Store, request: RoundRequest, error: OneSliceError) -> bytes:
    """The reply of a hospital that may not take part. Its state stays that of the round before.

    Nothing is committed, so the same request is answered in full once the policy allows it.
    """
    log.warning("%s stays out of round %d: %s", store.hospital, request.round, error)
    place = {"federation": request.plan.federation, "round": request.round}
    write_audit(store, "stayed_out", {**place, "why": str(error)})
    note = Note(
        hospital=store.hospital, outcome="abstained", reason=NOT_ALLOWED, round=request.round
    )
    return let_out(store, LocalUpdate({}, note), {}, request.plan)


def score_round(
    hospital: Hospital, request: RoundRequest, arrays: Arrays, terms: Terms = FREE
) -> LocalUpdate:
    """Scores the incoming segmenter on the held-back scans; nothing is trained or changed."""
    store, plan = hospital.store, request.plan
    device = choose_device(hospital.device)
    labelled = find_labelled(store, plan, plan.stage_of_round(request.round), terms.policy)
    segmenter = load_segmenter(plan, request.round, arrays)
    scores = score_held_back(store, request, labelled, segmenter, device, terms.clock)
    note = Note(hospital=store.hospital, outcome="scored", round=request.round, scores=scores)
    return LocalUpdate({}, note)


def train_round(
    hospital: Hospital,
    request: RoundRequest,
    arrays: Arrays,
    terms: Terms = FREE,
    old: Arrays | None = None,
) -> RoundResult:
    """The whole round; returns the reply and what is to be committed with it.

    `old` is the segmenter that knew the earlier tasks before the stage began, if it is needed.

    Raises:
        OutOfTimeError: the time of the terms was over before the segmenter's first step.
    """
    store, plan, number = hospital.store, request.plan, request.round
    device = choose_device(hospital.device)
    stage = plan.stage_of_round(number)
    before = load_state(store, plan.federation, number - 1, plan.extends)
    # What it is to learn now, the segmenter that came in knows nothing of.
    segmenter = load_segmenter(plan, number - 1, arrays)
    started = time.perf_counter()

    policy, clock, images = terms.policy, terms.clock, serves_images(request)
    ask_for_slices(hospital, plan, number, segmenter, device, terms)
    labelled = find_labelled(store, plan, stage, policy)
    maker = label_maker(store, plan, arrays, device, policy.allowed_tasks(plan.tasks), clock)
    spread_new(maker, clock.each_in_time(labelled.training_scans))
    propagated = time.perf_counter()

    scores = score_held_back(store, request, labelled, segmenter, device, clock)
    material = choose_material(plan, stage, labelled, before, policy, with_images=images)
    hardness = measure_hardness(maker, segmenter, before.memory, material, clock)
    scored = time.perf_counter()

    learned_from = clock.each_in_time((*material.current, *material.remembered))
    join_segmenter(maker, segmenter, learned_from, number, request.held_back_dice)
    joined = time.perf_counter()
    learners = load_learners(plan, number, arrays, old)
    trained = train_models(store, request, material, learners, device, clock, before.own_networks)
    remembered = remember(store, plan, before, material, number, hardness)
    after = replace(remembered, own_networks=trained.own_networks)
    seconds = {
        "propagate": propagated - started + joined - scored,
        "score": scored - propagated,
        "train": time.perf_counter() - joined,
    }
    measured = {
        "round": number,
        "scores": scores,
        "loss": trained.loss,
        "student_loss": trained.student_loss,
        "seconds": seconds,
    }
    note = describe_round(store, plan, labelled, material, policy).model_copy(update=measured)
    to_send = {} if material.outcome == "abstained" else learners.to_arrays()
    if trained.stopped_early:
        note = note.model_copy(update={"reason": STOPPED_EARLY})
    return RoundResult(LocalUpdate(to_send, note), after, _uses(material, labelled))


def _uses(material: Material, labelled: Labelled) -> Uses:
    """What each scan served for: whoever withdraws one learns which models it is in."""
    return {
        "trained": material.current,
        "replayed": material.remembered,
        "taught": material.unannotated,
        "scored": labelled.held_back_scans,
    }


def ask_for_slices(
    hospital: Hospital,
    plan: FederationPlan,
    number: int,
    segmenter: Module,
    device: torch.device,
    terms: Terms,
) -> None:
    """Notes where the segmenter is in doubt on new scans; whoever paints at once paints there."""
    if plan.annotation.slice_choice == "doubt":
        note_doubts(hospital.store, plan, number, segmenter, device, terms)
    if hospital.annotator is not None:
        for task in plan.tasks[: plan.stage_of_round(number) + 1]:
            paint_asked_slices(hospital.store, plan, task, hospital.annotator)


def load_segmenter(plan: FederationPlan, round_number: int, arrays: Arrays) -> Module:
    """The segmenter that came in, as it was after a round."""
    segmenter: Module = build_networks(plan, round_number)[SEGMENTER]
    load_arrays(segmenter, arrays, SEGMENTER)
    return segmenter


def score_held_back(
    store: Store,
    request: RoundRequest,
    labelled: Labelled,
    segmenter: Module,
    device: torch.device,
    clock: RoundClock = NO_LIMIT,
) -> tuple[TaskScore, ...]:
    """One score for each task that has held-back scans, of the models that the round came with."""
    plan, load = request.plan, clock.in_time(partial(load_scan, store))
    return tuple(
        score_painted_slices(
            segmenter,
            annotations,
            load,
            plan,
            plan.task_named(name),
            device=device,
        )
        for name, annotations in labelled.held_back.items()
        if annotations
    )


def describe_round(
    store: Store, plan: FederationPlan, labelled: Labelled, material: Material, policy: Policy
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
    used = len(material.current)
    replayed = len(material.remembered) if plan.replay.share > 0 else 0
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
        quarantined=count_set_aside(store, plan, policy),
        annotated_slices=sum(len(latest_annotations(store, one)) for one in sorted(annotated)),
    )


def _is_newest_failure(hospital: Hospital, note: Note) -> bool:
    """A coordinator greets again and again while it waits; once in the audit log is enough."""
    row = newest_row(hospital.store, FAILED)
    return row is not None and json.loads(row.details)["note"] == note.model_dump(mode="json")


def _audit_failure(hospital: Hospital, error: Exception, note: Note) -> None:
    text = "".join(traceback.format_exception(error))
    try:
        write_audit(hospital.store, FAILED, {"error": text, "note": note.model_dump(mode="json")})
    except (OneSliceError, OSError):
        # The store may be what failed; the process's log has the error already.
        log.warning("the failure could not be written to the audit log")
