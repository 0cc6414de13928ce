"""The model that predicts: one network of a release, and what its plan says of it."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import Module

from client.learning.device import check_device, choose_device
from common.errors import SettingsError
from common.networks.released import released_networks
from common.networks.unet import STUDENT
from common.plan import Label, Task
from common.released_models import Release, ReleaseRecord

Role = Literal["student", "segmenter"]


@dataclass(frozen=True)
class Model:
    """One of a release's two networks, ready to predict."""

    role: Role
    record: ReleaseRecord
    network: Module
    device: torch.device

    @property
    def tasks(self) -> tuple[Task, ...]:
        """Those that the model has learned: all up to the stage of its round."""
        plan = self.record.plan
        return plan.tasks[: plan.stage_of_round(self.record.round) + 1]

    @property
    def labels(self) -> tuple[Label, ...]:
        """Those that the model has learned; what it says of others means nothing."""
        names = {name for task in self.tasks for name in task.classes}
        return tuple(label for label in self.record.plan.labels if label.name in names)

    @property
    def title(self) -> str:
        """The model in words."""
        return f"{self.role} of {self.record.federation}, round {self.record.round}"


def load_model(release: Release, role: Role, device: str) -> Model:
    """A release's network of that role; `device` is auto, cpu or cuda.

    Raises:
        SettingsError: the federation trains no student, or there is no such device.
    """
    chosen = choose_device(check_device(device))
    record = release.record
    if role == STUDENT and record.plan.training.student_steps_per_round == 0:
        raise SettingsError(
            f"{record.federation} trains no student (student_steps_per_round is 0): predict with "
            "--model segmenter"
        )
    network = released_networks(release)[role]
    return Model(role, record, network.to(chosen), chosen)
