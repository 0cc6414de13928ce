"""Where tensors live."""

from typing import Literal, get_args

import torch

from common.errors import SettingsError

DeviceChoice = Literal["auto", "cpu", "cuda"]


def check_device(name: str) -> DeviceChoice:
    """The choice of that name.

    Raises:
        SettingsError: there is none.
    """
    for choice in get_args(DeviceChoice):
        if name == choice:
            return choice  # type: ignore[no-any-return]
    raise SettingsError(f"device {name!r}: expected one of {', '.join(get_args(DeviceChoice))}")


def choose_device(choice: DeviceChoice = "auto") -> torch.device:
    """`auto` is the GPU where there is one."""
    if choice == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(choice)
