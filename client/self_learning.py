"""A round of self-learning at a hospital, in reading order: no label is read, none needs to exist.

load the federation's correspondence network -> gather all scans of all the plan's tasks, painted
or not -> train on them -> the network goes up, and nothing else
"""

import math
import time
from dataclasses import replace

import torch

from client.admission import FREE, STOPPED_EARLY, NotAllowedError, Terms
from client.propagation.learn_correspondence import learn_correspondence
from client.round_material import count_set_aside
from client.round_result import RoundResult
from client.store.rounds import load_state
from client.store.scans import CatalogScan, each_image_once, list_scans, load_scan
from client.store.store import Store
from common.networks.correspondence import build_correspondence
from common.networks.unet import load_arrays, networks_to_arrays
from common.plan import FederationPlan, Task
from common.random_streams import generator
from common.scans import volume_of
from common.updates import CORRESPONDENCE, Arrays, LocalUpdate, Note, RoundRequest


def learn_round(
    store: Store,
    request: RoundRequest,
    arrays: Arrays,
    device: torch.device,
    terms: Terms = FREE,
) -> RoundResult:
    """The whole round; returns the reply and what is to be committed with it.

    Raises:
        NotAllowedError: fewer scans are fit to learn from than the hospital's policy demands.
        OutOfTimeError: the time of the terms was over before the first step.
    """
    plan, number = request.plan, request.round
    network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
    load_arrays(network, arrays, CORRESPONDENCE)
    before = load_state(store, plan.federation, number - 1, plan.extends)
    started = time.perf_counter()

    tasks = terms.policy.allowed_tasks(plan.tasks)
    of_tasks = [scan for task in tasks for scan in list_scans(store, task.name)]
    scans = each_image_once(of_tasks, {task.name: task.axis for task in tasks})
    fit = [scan for scan in scans if is_long_enough(plan, scan)]
    num_volumes = len({volume_of(scan.scan_id) for scan in fit})
    if num_volumes < terms.policy.min_annotated_scans:
        raise NotAllowedError(
            f"{num_volumes} scans are fit to learn from, `min_annotated_scans` is "
            f"{terms.policy.min_annotated_scans}"
        )
    loss = learn_correspondence(
        network,
        [(load_scan(store, scan.scan_id), plan.task_named(scan.task).axis) for scan in fit],
        plan,
        part=(number, plan.correspondence.rounds),
        rng=generator(plan.seed, store.hospital, number, "self-learning"),
        device=device,
        clock=terms.clock,
    )
    stopped_early = bool(fit) and terms.clock.is_over
    if loss is None and fit:
        terms.clock.check()
    measured = {
        "round": number,
        "loss": loss,
        "quarantined": count_set_aside(store, plan, terms.policy),
        "seconds": {"train": time.perf_counter() - started},
    }
    note = describe_learning(store, plan, tasks, scans, len(fit)).model_copy(update=measured)
    if stopped_early:
        note = note.model_copy(update={"reason": STOPPED_EARLY})
    trained = networks_to_arrays({CORRESPONDENCE: network}) if fit else {}
    after = replace(before, federation=plan.federation, round=number)
    uses = {"self_learned": [scan.scan_id for scan in fit]}
    return RoundResult(LocalUpdate(trained, note), after, uses)


def is_long_enough(plan: FederationPlan, scan: CatalogScan) -> bool:
    """Whether a chain of slices fits into a scan, along the axis that its task paints on."""
    axis = plan.task_named(scan.task).axis
    return scan.geometry.shape[axis] >= plan.correspondence.chain_slices


def describe_learning(
    store: Store, plan: FederationPlan, tasks: list[Task], scans: list[CatalogScan], num_fit: int
) -> Note:
    """The counts of a round of self-learning; a hospital without a scan that is fit abstains."""
    of_task = {task.name: [one for one in scans if one.task == task.name] for task in tasks}
    shortest = plan.correspondence.chain_slices
    return Note(
        hospital=store.hospital,
        outcome="self_learned" if num_fit else "abstained",
        reason="" if num_fit else f"no scan of at least {shortest} slices to learn from",
        num_examples=num_fit,
        scans_per_task={name: len(found) for name, found in of_task.items()},
        voxels_per_task={
            name: sum(math.prod(one.geometry.shape) for one in found)
            for name, found in of_task.items()
        },
        used=num_fit,
        skipped=len(scans) - num_fit,
    )
