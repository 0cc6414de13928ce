"""The training loop: a function with two openings, the batches that go in and the loss."""

from collections.abc import Callable, Iterable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor
from torch.nn import Module

from common.learning_settings import Training

Same = TypeVar("Same")


@runtime_checkable
class Movable(Protocol):
    """A batch of any kind."""

    def to(self: Same, device: torch.device) -> Same:
        """The batch on a device."""
        ...


AnyBatch = TypeVar("AnyBatch", bound=Movable)


def train(
    network: Module,
    batches: Iterable[AnyBatch],
    loss: Callable[[Module, AnyBatch], Tensor],
    settings: Training,
    *,
    learning_rate: float,
    device: torch.device,
) -> float | None:
    """Trains `network` in place, one AdamW step per batch; the mean loss, None without batches.

    Mixed precision on CUDA; a step whose gradient overflows there is skipped by the scaler.
    """
    network.to(device).train()
    optimiser = torch.optim.AdamW(
        network.parameters(), lr=learning_rate, weight_decay=settings.weight_decay
    )
    on_cuda = device.type == "cuda"
    scaler = torch.amp.GradScaler(device.type, enabled=on_cuda)
    losses: list[Tensor] = []
    for batch in batches:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype=torch.float16, enabled=on_cuda):
            value = loss(network, batch.to(device))
        torch.autograd.backward(scaler.scale(value))
        scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip_norm)
        scaler.step(optimiser)
        scaler.update()
        losses.append(value.detach())
    return float(torch.stack(losses).mean()) if losses else None


def learning_rate_at(settings: Training, share_of_stage_done: float) -> float:
    """Falls in a straight line over each stage, to `final_learning_rate_share` of the first."""
    lost = (1 - settings.final_learning_rate_share) * share_of_stage_done
    return settings.learning_rate * (1 - lost)
