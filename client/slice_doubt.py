"""Looks with the incoming segmenter at the scans that nobody has painted: where is it in doubt?

A slice of a new scan teaches most where the network is not sure of itself. On hippocampus scans
that is worth as much as a tenth more scans (docs/benchmarks.md). It takes a segmenter that has
learned the scan's classes, so the first task that names them is asked for as by `cohort`.
"""

import torch
from torch.nn import Module

from client.admission import FREE, Terms
from client.learning.predict import predict_probabilities
from client.propagation.residual import doubt, residual_per_slice
from client.store.annotations import painted_slices
from client.store.doubts import SliceDoubt, find_doubts, save_doubt
from client.store.scans import load_scan, scans_as_they_came
from client.store.store import Store
from common.plan import FederationPlan, Task

SHARE_OF_TIME = 0.25  # of what the hospital's policy gives a round


def note_doubts(
    store: Store,
    plan: FederationPlan,
    round_number: int,
    segmenter: Module,
    device: torch.device,
    terms: Terms = FREE,
) -> int:
    """Keeps the doubt of each scan that the plan asks for and nobody has painted; how many.

    A scan is looked at once in a stage, with the first segmenter that comes in. Where time is short
    it takes a share of it; the rest of the scans are looked at in the next round.
    """
    looked, clock = 0, terms.clock.share(SHARE_OF_TIME)
    for task in terms.policy.allowed_tasks(plan.tasks[: plan.stage_of_round(round_number) + 1]):
        if not plan.knows_classes_of(task):
            continue
        for scan_id in clock.until_over(_to_look_at(store, plan, task, round_number)):
            scan = load_scan(store, scan_id)
            predicted = predict_probabilities(segmenter, scan, plan.training, device=device)
            profile = residual_per_slice([doubt(predicted.numpy())], task.axis)
            numbers = tuple(round(float(number), 3) for number in profile)
            save_doubt(store, scan_id, SliceDoubt(plan.federation, round_number, numbers))
            looked += 1
    return looked


def _to_look_at(store: Store, plan: FederationPlan, task: Task, round_number: int) -> list[str]:
    """The task's scans that nobody has painted and no segmenter of this stage has looked at.

    Held-back scans are asked for without looking.
    """
    scans = scans_as_they_came(store, task.name)[: plan.annotation.scans]
    ids = [one.scan_id for one in scans if not plan.is_held_back(one.scan_id)]
    ids = [scan_id for scan_id in ids if not painted_slices(store, scan_id)]
    stage = plan.stage_of_round(round_number)
    done = {
        scan_id
        for scan_id, found in find_doubts(store, ids).items()
        if found.federation == plan.federation and plan.stage_of_round(found.round) == stage
    }
    return [scan_id for scan_id in ids if scan_id not in done]
