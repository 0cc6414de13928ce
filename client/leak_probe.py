"""How much of this hospital's own scans can be read back from what it sends.

The hospital attacks itself, on its own machine: patches of its scans are trained on as in a round,
and then rebuilt from the gradient or the update alone. The attack is one of several that were
published, given small patches and the true labels; what it cannot do, another may.
"""

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn import Module

from client.current_model import load_current_model
from client.label_engine import label_maker_now, spread_new
from client.learning.batches import Batch, draw_batches
from client.learning.device import choose_device
from client.learning.examples import Example
from client.learning.gradient_inversion import correlations, gradient_of, rebuild_images
from client.learning.leave_out import leave_out
from client.learning.losses import segmentation_loss
from client.learning.train import learning_rate_at
from client.learning.train_models import train_segmenter
from client.local_round import Hospital
from client.policy import read_policy
from client.round_material import Material, choose_material, find_labelled
from client.store.label_maps import load_label_map
from client.store.lock import among_others
from client.store.rounds import latest_round, load_state
from client.store.scans import load_scan
from client.store.store import Store
from client.store.trial_copy import trial_copy
from common.errors import StoreError
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.random_streams import generator, stream_seed

LARGEST_SIDE = 16  # of the patches, in voxels: smaller ones are easier to rebuild
NUM_OTHERS = 64
ITERATIONS = 300
Draw = Callable[[str, int], Iterator[Batch]]


@dataclass(frozen=True)
class Leak:
    """What one attack brought back.

    Attributes:
        seen: what the attacker saw.
        num_patches: how many patches that was made from.
        match: the correlation of the best rebuilt patch with the true one that it is most like.
        by_chance: the same of as many other patches of this hospital, which were not trained on;
            or of their mean, if that is more alike.
    """

    seen: str
    num_patches: int
    match: float
    by_chance: float


@dataclass(frozen=True)
class Probe:
    """All attacks on one model.

    Attributes:
        round: the round that the model comes from; 0: fresh weights, the hospital has none yet.
        patch_voxels: the size of the patches.
        leaks: the gradient of one patch, of a batch, and the update of a whole round, which is what
            really leaves.
        most_leak: the policy's limit; None without one.
    """

    round: int
    patch_voxels: tuple[int, int, int]
    leaks: tuple[Leak, ...]
    most_leak: float | None

    @property
    def too_much(self) -> bool:
        """Whether the update of a round tells more than the hospital's policy allows."""
        return self.most_leak is not None and self.leaks[-1].match > self.most_leak


def probe_leaks(hospital: Hospital, plan: FederationPlan, iterations: int) -> Probe:
    """Attacks the hospital's own update; nothing leaves, and nothing in the store changes.

    Each attack takes so many `iterations`; ITERATIONS of them make about a minute in all.

    Raises:
        StoreError: no annotated scan to train on.
    """
    store, device = hospital.store, choose_device(hospital.device)
    with among_others(store), trial_copy(store) as copy:
        number, material = _material(copy, plan, device)
        model = load_current_model(copy, plan)
        network = build_networks(plan, number)[SEGMENTER].to(device)
        if model is not None:
            load_arrays(network, model.arrays, SEGMENTER)
        small = _with_small_patches(plan)

        @cache
        def load(scan_id: str) -> Example:
            labels = load_label_map(copy, scan_id, plan.federation, joined=False)
            labels = leave_out(labels, plan.untaught_indexes(number))
            return Example(load_scan(copy, scan_id), labels, plan.num_classes)

        draw = partial(_draw, copy.hospital, small, material, load)
        attack = _Attack(network, small, draw, device, iterations)
        leaks = (attack.one_step(1), attack.one_step(plan.training.batch_size), attack.round())
    limit = read_policy(store.folder).most_leak
    return Probe(model.round if model is not None else 0, small.training.patch_size, leaks, limit)


@dataclass(frozen=True)
class _Attack:
    network: Module
    plan: FederationPlan
    draw: Draw
    device: torch.device
    iterations: int

    def one_step(self, num_patches: int) -> Leak:
        """From the gradient of one step on so many patches."""
        batch = _first(next(self.draw("step", 1)), num_patches).to(self.device)
        target = gradient_of(self.network, _loss_on(batch), batch.image)
        rebuilt = self._rebuild(batch, target)
        patches = "one patch" if num_patches == 1 else "a batch"
        return self._compare(f"one step on {patches}", batch.image, rebuilt)

    def round(self) -> Leak:
        """From how far a whole round moved the weights. The labels of its first batch are known."""
        settings = self.plan.training
        batches = list(self.draw("round", settings.steps_per_round))
        trained = deepcopy(self.network)
        train_segmenter(
            trained,
            batches,
            settings,
            learning_rate=learning_rate_at(settings, 0.0),
            device=self.device,
        )
        pairs = zip(self.network.parameters(), trained.parameters(), strict=True)
        target = [(before - after).detach() for before, after in pairs]
        rebuilt = self._rebuild(batches[0].to(self.device), target)
        seen = torch.cat([batch.image for batch in batches]).to(self.device)
        return self._compare("the update of a round", seen, rebuilt)

    def _rebuild(self, batch: Batch, target: list[Tensor]) -> Tensor:
        rng = torch.Generator().manual_seed(stream_seed(self.plan.seed, "probe", "first guess"))
        guess = torch.randn(batch.image.shape, generator=rng).to(self.device)
        loss = _loss_on(batch)
        return rebuild_images(self.network, loss, target, guess, iterations=self.iterations)

    def _compare(self, seen: str, true: Tensor, rebuilt: Tensor) -> Leak:
        drawn = self.draw("others", -(-NUM_OTHERS // self.plan.training.batch_size))
        others = torch.cat([batch.image for batch in drawn]).to(self.device)
        best = correlations(others, true).amax(1)
        groups = torch.split(best, len(rebuilt))
        chance = float(torch.stack(groups).mean())
        mean = float(correlations(others.mean(0, keepdim=True), true).max())
        match = float(correlations(rebuilt, true).max())
        return Leak(seen, len(true), match, max(chance, mean))


def _material(store: Store, plan: FederationPlan, device: torch.device) -> tuple[int, Material]:
    """The next round, and what it would train on, its labels made."""
    first = max(plan.correspondence.rounds, plan.begins_after) + 1
    number = min(max(latest_round(store, plan.federation) + 1, first), plan.num_rounds)
    stage, policy = plan.stage_of_round(number), read_policy(store.folder)
    labelled = find_labelled(store, plan, stage, policy)
    before = load_state(store, plan.federation, number - 1, plan.extends)
    material = choose_material(plan, stage, labelled, before, policy)
    if material.outcome == "abstained":
        raise StoreError(
            f"{store.hospital} has no annotated scan of this plan to train on: paint one first"
        )
    maker, _ = label_maker_now(store, plan, device, policy.allowed_tasks(plan.tasks))
    spread_new(maker, [*material.current, *material.remembered])
    return number, material


def _draw(
    hospital: str,
    plan: FederationPlan,
    material: Material,
    load: Callable[[str], Example],
    what: str,
    steps: int,
) -> Iterator[Batch]:
    rng = generator(plan.seed, hospital, "probe", what)
    scans = (material.current, material.remembered)
    return draw_batches(*scans, load, plan, steps=steps, rng=rng)


def _with_small_patches(plan: FederationPlan) -> FederationPlan:
    """The plan with patches of LARGEST_SIDE voxels at most, and two at the deepest level."""
    strides, asked = plan.segmenter.total_stride, plan.training.patch_size
    sides = [
        min(side, max(LARGEST_SIDE // stride, 2) * stride)
        for side, stride in zip(asked, strides, strict=True)
    ]
    training = plan.training.model_copy(update={"patch_size": (sides[0], sides[1], sides[2])})
    return plan.model_copy(update={"training": training})


def _first(batch: Batch, num_patches: int) -> Batch:
    parts = (batch.image, batch.target, batch.weight, batch.painted, batch.known, batch.replayed)
    return Batch(*(part[:num_patches] for part in parts))


def _loss_on(batch: Batch) -> Callable[[Module, Tensor], Tensor]:
    """The loss of a network on images, with the labels of a batch."""

    def loss(network: Module, images: Tensor) -> Tensor:
        return segmentation_loss(network(images), batch.target, batch.weight, batch.known)

    return loss
