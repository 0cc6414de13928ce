"""Trains a segmenter, or a student of one, on scans in one place, for comparisons."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import torch
from monai.networks.nets import UNet

from client.distillation.hints import build_teacher
from client.distillation.learn_from_pairs import pairs_term
from client.distillation.pairs import Cohort, Pair, draw_pairs
from client.distillation.registration import build_registration, train_registration
from client.few_labels.prototypes import contrast_term
from client.few_labels.pseudo_labels import Teaching, add_unannotated, ramped_weight, second_stage
from client.few_labels.synthesis import synthesise
from client.learning.batches import draw_batches
from client.learning.examples import Example
from client.learning.train import learning_rate_at
from client.learning.train_models import StudentTerm, train_segmenter, train_student
from common.networks.embedding import EMBEDDING, build_embedding
from common.plan import FederationPlan
from common.random_streams import generator
from common.scans import Scan

PARTS = 10  # the learning rate falls from part to part


def train_pooled(  # noqa: PLR0913  (what a comparison varies, and nothing of it belongs together)
    network: UNet,
    examples: Mapping[str, Example],
    plan: FederationPlan,
    *,
    steps: int,
    stream: tuple[str | int, ...],
    device: torch.device,
    unannotated: Mapping[str, Scan] = MappingProxyType({}),
) -> None:
    """Trains in place for `steps`, the rate falling as over a stage of the plan.

    `stream` names the random numbers that the batches are drawn from, with the plan's seed. Scans
    that are `unannotated` serve where the plan has pseudo-labels.
    """
    few_labels, embedding = plan.few_labels, build_embedding(plan).get(EMBEDDING)
    for part in range(PARTS):
        first, last = (place * steps // PARTS for place in (part, part + 1))

        def rng(*names: str, part: int = part) -> np.random.Generator:
            return generator(plan.seed, *stream, part, *names)

        batches = draw_batches(
            list(examples), [], examples.__getitem__, plan, steps=last - first, rng=rng()
        )
        batches = synthesise(batches, examples.values(), plan, rng("synthesis"))
        done = part / (PARTS - 1)
        # Nobody holds anything back here, so there is nothing that a guard could go by.
        weight = ramped_weight(few_labels.pseudo_labels, done)
        teaching = Teaching(weight, frozenset(label.index for label in plan.labels))
        batches = add_unannotated(
            batches,
            list(unannotated),
            unannotated.__getitem__,
            plan,
            rng("unannotated"),
            teaching=teaching,
        )
        batches, terms = second_stage(
            batches,
            network,
            embedding,
            few_labels.pseudo_labels,
            teaching=teaching,
            device=device,
            rng=rng("mixing"),
        )
        train_segmenter(
            network,
            batches,
            plan.training,
            learning_rate=learning_rate_at(plan.training, done),
            device=device,
            terms=terms,
            on_features=contrast_term(embedding, few_labels.prototypes, rng("contrast")),
        )


def train_pooled_student(  # noqa: PLR0913  (what a comparison varies)
    student: UNet,
    segmenter: UNet,
    cohort: Cohort,
    plan: FederationPlan,
    *,
    steps: int,
    stream: tuple[str | int, ...],
    device: torch.device,
) -> None:
    """Trains a student in place for `steps`, as the plan's distillation says.

    The rate falls as over a stage. Its registration network has as many steps for one of the
    student's as in a round.
    """
    registration, teacher = build_registration(plan), build_teacher(plan)
    own_steps = steps * plan.distillation.own_steps // plan.training.student_steps_per_round

    def part_of(total: int, part: int) -> int:
        return (part + 1) * total // PARTS - part * total // PARTS

    def pairs(part: int, name: str, total: int) -> Iterator[Pair]:
        rng = generator(plan.seed, *stream, part, name)
        return draw_pairs(cohort, plan, steps=part_of(total, part), rng=rng)

    def learn_pairs(part: int, rate: float) -> StudentTerm | None:
        if not plan.distillation.uses_pairs:
            return None
        train_registration(
            registration,
            pairs(part, "registration", own_steps),
            plan.training,
            learning_rate=rate,
            device=device,
        )
        return pairs_term(
            registration,
            teacher,
            pairs(part, "pairs", steps),
            plan.distillation,
            plan.training,
            share_of_stage_done=part / (PARTS - 1),
            device=device,
        )

    for part in range(PARTS):
        rate = learning_rate_at(plan.training, part / (PARTS - 1))
        rng = generator(plan.seed, *stream, part)
        scans = (cohort.current, cohort.remembered, cohort.load)
        train_student(
            student,
            segmenter,
            draw_batches(*scans, plan, steps=part_of(steps, part), rng=rng),
            plan.training,
            plan.distillation,
            learning_rate=plan.distillation.learning_rate_factor * rate,
            device=device,
            on_pairs=learn_pairs(part, rate),
        )
