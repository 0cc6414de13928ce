"""How much memory a round is likely to need, before anything of it is computed.

An estimate, not a fence: the system's own limits (RLIMIT_AS, RLIMIT_DATA) count address space that
torch and CUDA reserve and never touch, so a limit that lets a round work does not bound what it
takes. What training keeps for the way back is counted exactly, on tensors without content; the rest
are multiples of that and of the largest scan, measured on a CPU, a little above the worst.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import Module

from client.learning.losses import segmentation_loss
from client.learning.old_classes import needs_old_model
from client.propagation.learn_correspondence import Chains, reconstruction_loss
from client.store.status import largest_scan_voxels
from client.store.store import Store
from common.networks.correspondence import build_correspondence
from common.networks.unet import SEGMENTER, STUDENT, build_unet
from common.plan import FederationPlan, Task
from common.updates import CORRESPONDENCE, RoundRequest

GB = 1e9
FLOAT_BYTES = 4
# Python with torch, MONAI and TorchIO loaded.
LOADED_BYTES = 0.7 * GB
# Received, in the network, before the round, gradient, two moments, to be sent, as a message.
COPIES_OF_WEIGHTS = 8
# Of the old model, where there is one: read, in a network, how much each weight mattered, as a sum.
COPIES_OF_OLD_WEIGHTS = 4
# What blurring the labels takes beside them: measured 15 times as much.
TARGETS_OF_A_BLUR = 16
# Convolutions work on copies in an order of their own, and gradients come on top of what is kept:
# 2.0 to 2.1 times as much was measured for U-Nets, 1.5 for the correspondence network.
TRAINING_SLACK = 2.25
# Probabilities of a whole scan, one float per class and voxel, that exist at the same time while a
# label is spread (4.3 to 5.3 measured) or joined (5.7 to 6.4).
COPIES_OF_LABELS = 7


def estimate_memory_gb(store: Store, request: RoundRequest, tasks: Sequence[Task]) -> float:
    """Of a round on the scans of these tasks, in gigabytes (1e9 bytes), main and GPU memory."""
    plan = request.plan
    voxels = largest_scan_voxels(store, [task.name for task in tasks])
    if plan.is_self_learning(request.round):
        network: Module = build_correspondence(plan.channels, plan.correspondence, plan.seed)
        return _sum_gb(_weights(network), TRAINING_SLACK * _kept_by_self_learning(plan))
    networks = [_empty_unet(plan, role) for role in (SEGMENTER, STUDENT)]
    classes = 1 + max(len(task.classes) for task in tasks)
    if plan.propagation.segmenter_from is not None:
        classes = plan.num_classes
    volumes = COPIES_OF_LABELS * classes + plan.channels
    if CORRESPONDENCE in plan.propagation.candidates:
        volumes += plan.correspondence.descriptor_length
    labels = volumes * FLOAT_BYTES * voxels
    training = 0.0
    if request.action == "train":
        training = TRAINING_SLACK * max(_kept_by_training(plan, network) for network in networks)
    # Labels are made first and training comes after them: the greater of the two counts.
    weights = sum(_weights(network) for network in networks)
    if needs_old_model(plan, plan.stage_of_round(request.round)):
        weights += _weights(networks[0]) * COPIES_OF_OLD_WEIGHTS / COPIES_OF_WEIGHTS
    return _sum_gb(weights, max(labels, training))


def _sum_gb(weights: float, working: float) -> float:
    return (LOADED_BYTES + COPIES_OF_WEIGHTS * weights + working) / GB


def _weights(network: Module) -> float:
    return FLOAT_BYTES * sum(parameter.numel() for parameter in network.parameters())


def _empty_unet(plan: FederationPlan, role: str) -> Module:
    size = plan.segmenter if role == SEGMENTER else plan.student
    with torch.device("meta"):
        network: Module = build_unet(size, in_channels=plan.channels, num_classes=plan.num_classes)
    return network


def _kept_by_training(plan: FederationPlan, network: Module) -> float:
    pseudo = plan.few_labels.pseudo_labels
    is_taught = pseudo.weight > 0
    unannotated = pseudo.unannotated if is_taught else 0
    size = (plan.training.batch_size + unannotated, *plan.training.patch_size)
    with torch.device("meta"):
        image = torch.empty(size[0], plan.channels, *size[1:])
        target = torch.empty(size[0], plan.num_classes, *size[1:])
        weight, known = torch.empty(size), torch.empty(target.shape, dtype=torch.bool)
    counter = _Counter()
    with counter:
        logits = network(image)
        segmentation_loss(logits, target, weight, known)
        if is_taught:  # the pseudo-labels' own term
            segmentation_loss(logits, target, weight, known)
    # What is learnt; and what the teacher says beside it, both once more when they were mixed.
    targets = 4 if is_taught else 1
    if plan.training.boundary_smoothing_voxels > 0:
        targets += TARGETS_OF_A_BLUR
    return counter.num_bytes + targets * FLOAT_BYTES * math.prod(target.shape)


def _kept_by_self_learning(plan: FederationPlan) -> float:
    settings = plan.correspondence
    side, length = settings.crop_voxels, settings.chain_slices
    network = build_correspondence(plan.channels, settings, plan.seed).to("meta")
    with torch.device("meta"):
        slices = torch.empty(settings.batch_size, length, plan.channels, side, side)
        own = torch.empty(settings.batch_size, length - 1, dtype=torch.bool)
    counter = _Counter()
    with counter:
        reconstruction_loss(network, Chains(slices, own), settings, plan.propagation)
    return counter.num_bytes


class _Counter(torch.autograd.graph.saved_tensors_hooks):
    """Adds up the bytes of what is kept for the way back."""

    def __init__(self) -> None:
        self.num_bytes = 0.0
        super().__init__(self._count, lambda tensor: tensor)

    def _count(self, tensor: Tensor) -> Tensor:
        self.num_bytes += tensor.numel() * tensor.element_size()
        return tensor
