"""What the student learns in a round, and the networks that a hospital keeps for it to itself.

    train the registration network on pairs of scans -> warp labelled scans onto others -> train the
    student on these, on labels and on the segmenter, and with it the teacher

The registration network and the teacher are part of the hospital's state after a round, so that a
round done again begins with the same ones. They never leave.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial

import torch
from monai.networks.nets import UNet
from safetensors.numpy import load, save

from client.distillation.hints import TEACHER, build_teacher
from client.distillation.learn_from_pairs import pairs_term
from client.distillation.pairs import Cohort, Pair, draw_pairs
from client.distillation.registration import (
    REGISTRATION,
    Registration,
    build_registration,
    train_registration,
)
from client.learning.batches import Batch
from client.learning.examples import Example
from client.learning.round_clock import RoundClock
from client.learning.train import learning_rate_at
from client.learning.train_models import StudentTerm, train_student
from client.round_material import Material
from client.store.scans import load_scan, lookup_scans
from client.store.store import Store
from common.networks.unet import SEGMENTER, STUDENT, load_arrays, networks_to_arrays
from common.plan import FederationPlan
from common.random_streams import generator
from common.updates import RoundRequest


@dataclass(frozen=True)
class OwnNetworks:
    """The networks that a hospital trains for its student alone."""

    registration: Registration
    teacher: UNet

    def to_bytes(self) -> bytes:
        """All weights."""
        both = {REGISTRATION: self.registration, TEACHER: self.teacher}
        data: bytes = save(networks_to_arrays(both))
        return data


def load_own_networks(plan: FederationPlan, kept: bytes) -> OwnNetworks:
    """The networks as they were kept; with first weights where nothing was (no bytes)."""
    own = OwnNetworks(build_registration(plan), build_teacher(plan))
    if kept:
        arrays = load(kept)
        load_arrays(own.registration, arrays, REGISTRATION)
        load_arrays(own.teacher, arrays, TEACHER)
    return own


@dataclass(frozen=True)
class StudentRound:
    """What the student has in a round: the hospital, the request, its scans, the time left.

    `kept` are the hospital's own networks after the round before.
    """

    store: Store
    request: RoundRequest
    material: Material
    load: Callable[[str], Example]
    kept: bytes
    device: torch.device
    clock: RoundClock


def learn_student(
    here: StudentRound, networks: dict[str, UNet], batches: Iterator[Batch]
) -> tuple[float | None, bytes]:
    """Trains the student in place; its mean loss, and the hospital's own networks after it."""
    plan, number = here.request.plan, here.request.round
    rate = learning_rate_at(plan.training, plan.share_of_stage_done(number))
    own = load_own_networks(plan, here.kept) if plan.distillation.uses_pairs else None
    loss = train_student(
        networks[STUDENT],
        networks[SEGMENTER],
        here.clock.until_over(batches),
        plan.training,
        plan.distillation,
        learning_rate=plan.distillation.learning_rate_factor * rate,
        device=here.device,
        on_pairs=_learn_pairs(here, own, rate) if own is not None else None,
    )
    return loss, here.kept if own is None else own.to_bytes()


def _learn_pairs(here: StudentRound, own: OwnNetworks, rate: float) -> StudentTerm:
    """Trains the registration network; the student's term on what it warps from then on."""
    plan, number, cohort = here.request.plan, here.request.round, _cohort(here)
    steps, student_steps = plan.distillation.own_steps, plan.training.student_steps_per_round

    def pairs(name: str, steps: int) -> Iterator[Pair]:
        rng = generator(plan.seed, here.store.hospital, number, name)
        return draw_pairs(cohort, plan, steps=steps, rng=rng)

    # Both share what time is left as they share the steps.
    clock = here.clock.share(steps / max(steps + student_steps, 1))
    train_registration(
        own.registration,
        clock.until_over(pairs(REGISTRATION, steps)),
        plan.training,
        learning_rate=rate,
        device=here.device,
    )
    return pairs_term(
        own.registration,
        own.teacher,
        pairs("pairs", student_steps),
        plan.distillation,
        plan.training,
        share_of_stage_done=plan.share_of_stage_done(number),
        device=here.device,
    )


def _cohort(here: StudentRound) -> Cohort:
    """The round's scans, each with all others of its task; one that is alone, with itself."""
    current, remembered = here.material.current, here.material.remembered
    rows = lookup_scans(here.store, [*current, *remembered, *here.material.unannotated])
    of_task: dict[str, list[str]] = {}
    for scan_id in sorted(rows):
        of_task.setdefault(rows[scan_id].task, []).append(scan_id)
    others = {
        one: [other for other in of_task[rows[one].task] if other != one] or [one]
        for one in (*current, *remembered)
    }
    return Cohort(current, remembered, others, here.load, cache(partial(load_scan, here.store)))
