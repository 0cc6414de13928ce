"""Where tensors live."""

from typing import Literal

import torch

DeviceChoice = Literal["auto", "cpu", "cuda"]


def choose_device(choice: DeviceChoice = "auto") -> torch.device:
    """`auto` is the GPU where there is one."""
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(choice)
