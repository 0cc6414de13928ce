"""The correspondence network that a hospital learns by itself, from all its scans."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from client.learning.round_clock import NO_LIMIT, RoundClock
from client.propagation.learn_correspondence import learn_correspondence
from client.store.correspondence import Learned, load_learned, save_learned
from client.store.scans import CatalogScan, each_image_once, list_scans, load_scan
from client.store.store import Store
from common.networks.correspondence import CorrespondenceNetwork, build_correspondence
from common.plan import FederationPlan, Task
from common.random_streams import generator

PARTS = 10
# A network is learned anew once the hospital has this many times the scans that it saw.
OUTGROWN = 2


def own_correspondence(
    store: Store,
    plan: FederationPlan,
    device: torch.device,
    tasks: Sequence[Task] | None = None,
    clock: RoundClock = NO_LIMIT,
) -> CorrespondenceNetwork:
    """The hospital's own network, learned now if there is none, or scans have doubled since.

    Learned in parts, each kept: a training that was killed, or ran out of time, goes on with the
    next part, to the same weights. Scans too short for a chain of slices teach nothing and do not
    count, nor do those of other tasks than `tasks`; none: of all that the plan names.

    Raises:
        OutOfTimeError: the clock was over before the last part.
    """
    tasks = plan.tasks if tasks is None else tasks
    network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
    settings = _digest(plan, tasks)
    kept = load_learned(store, settings)
    axis_of = {task.name: task.axis for task in tasks}
    fit = [
        scan
        for scan in list_scans(store)
        if scan.task in axis_of
        and scan.geometry.shape[axis_of[scan.task]] >= plan.correspondence.chain_slices
    ]
    scans = each_image_once(fit, axis_of)
    done = kept[-1] if kept and len(scans) < OUTGROWN * len(kept[-1].scans) else None
    if done is not None:
        _set_weights(network, done)
        seen = set(done.scans)
        # Of all: since then an image may have come for a task that is first in line here.
        scans = [scan for scan in fit if scan.scan_id in seen]
    for part in clock.each_in_time(range(done.part + 1 if done else 1, PARTS + 1)):
        _learn_part(store, plan, network, scans, part, device)
        weights = parameters_to_vector(network.parameters()).detach().cpu().numpy()
        names = tuple(scan.scan_id for scan in scans)
        save_learned(store, settings, Learned(part, names, weights))
    return network


def learned_correspondence(
    store: Store, plan: FederationPlan, tasks: Sequence[Task] | None = None
) -> CorrespondenceNetwork | None:
    """The hospital's own network if it is there; None if its learning is not finished."""
    settings = _digest(plan, plan.tasks if tasks is None else tasks)
    finished = [one for one in load_learned(store, settings) if one.part == PARTS]
    if not finished:
        return None
    network = build_correspondence(plan.channels, plan.correspondence, plan.seed)
    _set_weights(network, finished[-1])
    return network


def _learn_part(
    store: Store,
    plan: FederationPlan,
    network: CorrespondenceNetwork,
    scans: list[CatalogScan],
    part: int,
    device: torch.device,
) -> None:
    axis_of = {task.name: task.axis for task in plan.tasks}
    rng = generator(plan.seed, store.hospital, "own correspondence", str(len(scans)), part)
    loaded = [(load_scan(store, scan.scan_id), axis_of[scan.task]) for scan in scans]
    learn_correspondence(network, loaded, plan, part=(part, PARTS), rng=rng, device=device)


def _digest(plan: FederationPlan, tasks: Sequence[Task]) -> str:
    """Of all that bears on the training; other settings of the propagation do not."""
    window = (plan.propagation.search_radius_voxels, plan.propagation.displacement_penalty)
    optimiser = (plan.training.weight_decay, plan.training.clip_norm)
    scans = sorted((task.name, task.axis) for task in tasks)
    rest = (window, optimiser, scans, plan.channels, plan.seed)
    text = plan.correspondence.model_dump_json() + str(rest)
    return hashlib.sha256(text.encode()).hexdigest()


def _set_weights(network: CorrespondenceNetwork, learned: Learned) -> None:
    vector_to_parameters(torch.from_numpy(np.array(learned.weights)), network.parameters())
