"""What a round trains on its material: the segmenter with replay, then the student on it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import numpy as np
import torch
from monai.networks.nets import UNet

from client.few_labels.prototypes import contrast_term
from client.few_labels.pseudo_labels import add_unannotated, second_stage, teaching_of
from client.few_labels.synthesis import synthesise
from client.learning.batches import Batch, draw_batches
from client.learning.draw_ahead import draw_ahead, leaves_cores_idle
from client.learning.examples import Example
from client.learning.leave_out import leave_out
from client.learning.round_clock import NO_LIMIT, RoundClock
from client.learning.train import learning_rate_at
from client.learning.train_models import LossTerm, stay_near, train_segmenter
from client.retention import labels_to_learn, retain
from client.round_distillation import StudentRound, learn_student
from client.round_material import Material
from client.store.label_maps import load_label_map
from client.store.scans import load_scan
from client.store.store import Store
from common.networks.embedding import EMBEDDING, Embedding, build_embedding
from common.networks.unet import (
    SEGMENTER,
    STUDENT,
    build_networks,
    load_arrays,
    networks_to_arrays,
)
from common.plan import FederationPlan
from common.random_streams import generator
from common.updates import Arrays, RoundRequest

FISHER_BATCHES = 16


@dataclass(frozen=True)
class Learners:
    """The networks that are trained, and the segmenter that knew the earlier tasks, if needed.

    `embedding` of the segmenter's features is trained with it, where the plan has a contrast.
    """

    networks: dict[str, UNet]
    old: Arrays | None = None
    embedding: Embedding | None = None

    def to_arrays(self) -> Arrays:
        """What the round trained."""
        if self.embedding is None:
            return networks_to_arrays(self.networks)
        return networks_to_arrays({**self.networks, EMBEDDING: self.embedding})


@dataclass(frozen=True)
class Trained:
    """Mean losses of the two networks, and whether the time was over before all steps were done.

    `own_networks`: those that the hospital keeps to itself, as they are now.
    """

    loss: float | None = None
    student_loss: float | None = None
    stopped_early: bool = False
    own_networks: bytes = b""


def load_learners(
    plan: FederationPlan, round_number: int, arrays: Arrays, old: Arrays | None
) -> Learners:
    """The networks that a round trains, with the weights that came in."""
    networks, embedding = build_networks(plan, round_number), build_embedding(plan)
    for role, network in {**networks, **embedding}.items():
        load_arrays(network, arrays, role)
    return Learners(networks, old, embedding.get(EMBEDDING))


def train_models(  # noqa: PLR0913, PLR0917  (all that a round has at hand)
    store: Store,
    request: RoundRequest,
    material: Material,
    learners: Learners,
    device: torch.device,
    clock: RoundClock = NO_LIMIT,
    own_networks: bytes = b"",
) -> Trained:
    """Trains the segmenter, then the student on it, in place.

    Where time is short, each gets the share of it that it has of the steps. `own_networks` as they
    were after the round before.

    Raises:
        OutOfTimeError: there was none for the segmenter's first step.
    """
    if material.outcome == "abstained":
        return Trained(own_networks=own_networks)
    plan, networks = request.plan, learners.networks

    @cache
    def load(scan_id: str) -> Example:
        labels = load_label_map(store, scan_id, plan.federation)
        labels = labels_to_learn(store, plan, scan_id, labels)
        labels = leave_out(labels, plan.untaught_indexes(request.round))
        return Example(load_scan(store, scan_id), labels, plan.num_classes)

    def batches(role: str, steps: int) -> Iterator[Batch]:
        rng = generator(plan.seed, store.hospital, request.round, "batches", role)
        scans = (material.current, material.remembered)
        return draw_batches(*scans, load, plan, steps=steps, rng=rng)

    rate = learning_rate_at(plan.training, plan.share_of_stage_done(request.round))
    steps, student_steps = plan.training.steps_per_round, plan.training.student_steps_per_round
    others = student_steps + plan.distillation.own_steps
    own_clock = clock.share(steps / (steps + others))
    drawn, terms = _to_learn(
        store, request, material, learners, load, batches(SEGMENTER, steps), device
    )
    contrast_rng = generator(plan.seed, store.hospital, request.round, "contrast")
    loss = train_segmenter(
        networks[SEGMENTER],
        own_clock.until_over(drawn),
        plan.training,
        learning_rate=rate,
        device=device,
        terms=terms,
        on_features=contrast_term(learners.embedding, plan.few_labels.prototypes, contrast_rng),
    )
    # With it ends the thread that draws ahead, if time was over before the batches were.
    del drawn
    if loss is None:
        clock.check()
    stopped_early = own_clock.is_over
    here = StudentRound(store, request, material, load, own_networks, device, clock)
    student_batches = batches(STUDENT, student_steps)
    if leaves_cores_idle(device):
        student_batches = draw_ahead(student_batches)
    student_loss, own_networks = learn_student(here, networks, student_batches)
    return Trained(loss, student_loss, stopped_early or clock.is_over, own_networks)


def _to_learn(  # noqa: PLR0913, PLR0917  (all that a round has at hand)
    store: Store,
    request: RoundRequest,
    material: Material,
    learners: Learners,
    load: Callable[[str], Example],
    batches: Iterator[Batch],
    device: torch.device,
) -> tuple[Iterator[Batch], list[LossTerm]]:
    """What the segmenter learns from, and the terms of its loss beside the labels' own."""
    plan, segmenter = request.plan, learners.networks[SEGMENTER]

    def rng(name: str) -> np.random.Generator:
        return generator(plan.seed, store.hospital, request.round, name)

    def remembered() -> Iterator[Batch]:
        steps = FISHER_BATCHES if material.remembered else 0
        return draw_batches([], material.remembered, load, plan, steps=steps, rng=rng("remembered"))

    teaching = teaching_of(plan, plan.share_of_stage_done(request.round), request.held_back_dice)
    best = map(load, material.current or material.remembered)
    drawn = synthesise(batches, best, plan, rng("synthesis"))
    drawn = add_unannotated(
        drawn,
        material.unannotated,
        cache(partial(load_scan, store)),
        plan,
        rng("unannotated"),
        teaching=teaching,
    )
    if leaves_cores_idle(device):
        # What comes after depends on the weights, and has to wait for the step before.
        drawn = draw_ahead(drawn)
    terms = [stay_near(segmenter, request.proximal_mu, device)]
    if learners.old is not None:
        drawn, held = retain(request, learners.old, drawn, remembered(), device)
        terms += held
    drawn, taught = second_stage(
        drawn,
        segmenter,
        learners.embedding,
        plan.few_labels.pseudo_labels,
        teaching=teaching,
        device=device,
        rng=rng("mixing"),
    )
    return drawn, [*terms, *taught]
