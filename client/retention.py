"""What keeps old tasks alive while a new one is learnt, beside replay: the plan's `retention`."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.nn import Module

from client.learning.batches import Batch
from client.learning.elastic_weights import elastic_term, fisher_information
from client.learning.losses import Logits
from client.learning.old_classes import (
    OldModel,
    count_as_background,
    distillation_loss,
    look_with,
    needs_old_model,
    split_background,
)
from client.learning.train_models import LossTerm
from client.store.old_models import old_model_of_stage
from client.store.scans import find_scan
from client.store.store import Store
from common.learning_settings import Retention
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.scans import LabelMap
from common.updates import Arrays, RoundRequest


def find_old_model(
    store: Store, request: RoundRequest, arrays: Arrays, digest: str
) -> Arrays | None:
    """The segmenter that came in with the hospital's first round of the stage; None: not needed.

    That of a request with this digest is kept if it is the first.
    """
    plan, stage = request.plan, request.plan.stage_of_round(request.round)
    if not needs_old_model(plan, stage):
        return None
    first = plan.last_round_of_stage(stage) - plan.tasks[stage].rounds + 1
    incoming = {name: array for name, array in arrays.items() if name.startswith(f"{SEGMENTER}/")}
    rounds = range(first, request.round + 1)
    return old_model_of_stage(store, plan.federation, rounds, digest, incoming)


def labels_to_learn(store: Store, plan: FederationPlan, scan_id: str, labels: LabelMap) -> LabelMap:
    """The labels of a scan; plain fine-tuning takes what was not looked for as background."""
    if plan.retention.old_classes != "background":
        return labels
    task = find_scan(store, scan_id).task
    stage = plan.tasks.index(plan.task_named(task))
    return count_as_background(labels, plan.taught_indexes(stage - 1))


def retain(
    request: RoundRequest,
    weights: Arrays,
    batches: Iterator[Batch],
    remembered: Iterable[Batch],
    device: torch.device,
) -> tuple[Iterator[Batch], list[LossTerm]]:
    """The batches as the old model completes them, and what holds the segmenter to it.

    Args:
        request: the round's.
        weights: of the old model.
        batches: what the segmenter is to learn from.
        remembered: batches from memory alone, to tell by which weights matter for earlier tasks.
        device: where to compute.
    """
    plan, retention = request.plan, request.plan.retention
    before = plan.stage_of_round(request.round) - 1
    network = build_networks(plan, plan.last_round_of_stage(before))[SEGMENTER]
    load_arrays(network, weights, SEGMENTER)
    old = OldModel(network, plan.taught_indexes(before))
    terms: list[LossTerm] = []
    if retention.elastic_weight > 0:
        terms.append(_hold_weights(network, remembered, retention.elastic_weight, device))
    is_distilled = retention.old_classes == "distilled"
    if retention.holds_outputs:
        terms.append(_hold_outputs(old.classes, retention))
    if retention.holds_outputs or is_distilled:
        batches = look_with(old, batches, device)
    if is_distilled:
        batches = (split_background(batch, old.classes) for batch in batches)
    return batches, terms


def _hold_weights(
    old: Module, remembered: Iterable[Batch], weight: float, device: torch.device
) -> LossTerm:
    fisher = fisher_information(old, remembered, device)
    before = [parameter.detach() for parameter in old.parameters()]

    def term(network: Module, _batch: Batch, _logits: Logits) -> Tensor:
        return elastic_term(list(network.parameters()), before, fisher, weight)

    return term


def _hold_outputs(classes: tuple[int, ...], retention: Retention) -> LossTerm:
    def term(_network: Module, batch: Batch, logits: Logits) -> Tensor:
        assert batch.old_logits is not None  # the batches went through look_with
        strength = torch.where(
            batch.replayed, retention.replay_distillation, retention.current_distillation
        )
        return distillation_loss(logits, batch.old_logits, classes, strength)

    return term
