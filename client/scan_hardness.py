"""How hard a scan is for the segmenter that comes in: what the replay policy "hard" goes by."""

from functools import partial

from torch.nn import Module

from client.label_engine import LabelMaker
from client.learning.evaluate import score_painted_slices
from client.learning.round_clock import NO_LIMIT, RoundClock
from client.round_material import Material, memory_budget
from client.store.annotations import latest_annotations
from client.store.rounds import Memory
from client.store.scans import load_scan


def measure_hardness(
    maker: LabelMaker,
    segmenter: Module,
    memory: Memory,
    material: Material,
    clock: RoundClock = NO_LIMIT,
) -> dict[str, float]:
    """1 - Dice on the own painted slices of each scan that competes for a place in the memory.

    Looked at are the scans that will be offered and those that are remembered, all by the same
    segmenter: what an earlier one found hard says little beside it. Where nobody competes, or the
    plan has another policy, nobody is looked at.

    Args:
        maker: whose plan, store and device.
        segmenter: the incoming one, not trained in this round yet.
        memory: of the round before.
        material: of this round.
        clock: how long the round may go on.

    Raises:
        OutOfTimeError: the time was over before all were looked at.
    """
    store, plan = maker.store, maker.plan
    newcomers = [one for one in material.current if one not in memory.offered]
    task_of = {entry.scan_id: entry.task for entry in memory.entries}
    budget = memory_budget(store, plan, list(task_of))
    if plan.replay.policy != "hard" or (not newcomers and budget.holds(memory.entries)):
        return {}
    if material.task is not None:
        task_of |= dict.fromkeys(newcomers, material.task.name)
    load = clock.in_time(partial(load_scan, store))
    hardness = {}
    for scan_id, task in task_of.items():
        score = score_painted_slices(
            segmenter,
            latest_annotations(store, scan_id),
            load,
            plan,
            plan.task_named(task),
            device=maker.device,
        )
        # Nothing painted and nothing found: there is nothing that it does badly.
        hardness[scan_id] = 0.0 if score.mean_dice is None else 1 - score.mean_dice
    return hardness
