"""A round of self-learning at a hospital, in reading order: no label is read, none needs to exist.

load the federation's correspondence network -> gather all scans of all the plan's tasks, painted
or not -> train on them -> the network goes up, and nothing else
"""

import math
import time
from dataclasses import replace

import torch

from client.propagation.learn_correspondence import learn_correspondence
from client.store.rounds import HospitalState, load_state
from client.store.scans import CatalogScan, count_quarantined, list_scans, load_scan
from client.store.store import Store
from common.networks.correspondence import build_correspondence
from common.networks.unet import load_arrays, networks_to_arrays
from common.plan import FederationPlan
from common.random_streams import generator
from common.updates import CORRESPONDENCE, Arrays, LocalUpdate, Note, RoundRequest


def learn_round(
    store: Store, request: RoundRequest, arrays: Arrays, device: torch.device
) -> tuple[LocalUpdate, HospitalState]:
    """The whole round; returns the reply and the state to commit with it."""
    plan, number = request.plan, request.round
    network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
    load_arrays(network, arrays, CORRESPONDENCE)
    before = load_state(store, plan.federation, number - 1)
    started = time.perf_counter()

    scans = [scan for task in plan.tasks for scan in list_scans(store, task.name)]
    fit = [scan for scan in scans if is_long_enough(plan, scan)]
    loss = learn_correspondence(
        network,
        [(load_scan(store, scan.scan_id), plan.task_named(scan.task).axis) for scan in fit],
        plan,
        part=(number, plan.correspondence.rounds),
        rng=generator(plan.seed, store.hospital, number, "self-learning"),
        device=device,
    )
    measured = {"round": number, "loss": loss, "seconds": {"train": time.perf_counter() - started}}
    note = describe_learning(store, plan, scans, len(fit)).model_copy(update=measured)
    trained = networks_to_arrays({CORRESPONDENCE: network}) if fit else {}
    return LocalUpdate(trained, note), replace(before, federation=plan.federation, round=number)


def is_long_enough(plan: FederationPlan, scan: CatalogScan) -> bool:
    """Whether a chain of slices fits into a scan, along the axis that its task paints on."""
    axis = plan.task_named(scan.task).axis
    return scan.geometry.shape[axis] >= plan.correspondence.chain_slices


def describe_learning(
    store: Store, plan: FederationPlan, scans: list[CatalogScan], num_fit: int
) -> Note:
    """The counts of a round of self-learning; a hospital without a scan that is fit abstains."""
    of_task = {task.name: [one for one in scans if one.task == task.name] for task in plan.tasks}
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
        quarantined=count_quarantined(store, None),
    )
