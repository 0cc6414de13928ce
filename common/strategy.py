"""How a federation's models are combined into one."""

import math
from typing import Literal

from pydantic import Field

from common.settings_file import Settings

StrategyName = Literal[
    "FedAvg",
    "FedProx",
    "FedAdam",
    "FedMedian",
    "FedTrimmedAvg",
    "Krum",
    "MultiKrum",
    "Bulyan",
]

# By the scans that each hospital claims, or every hospital the same.
Weighing = Literal["scans", "equal"]


class StrategySettings(Settings):
    """How the server combines the hospitals' models, by the name of Flower's class.

    `num_malicious`: how many hospitals Krum, MultiKrum and Bulyan are to withstand; `num_selected`:
    of how many models MultiKrum takes the mean. `weighing`: whether a mean counts every hospital by
    its scans, which are only what it claims, or all the same.
    """

    name: StrategyName = "FedAvg"
    weighing: Weighing = "scans"
    proximal_mu: float = Field(default=0.01, ge=0)
    server_learning_rate: float = Field(default=0.01, gt=0)
    trimmed_share: float = Field(default=0.25, gt=0, lt=0.5)
    num_malicious: int = Field(default=0, ge=0)
    num_selected: int = Field(default=3, ge=1)

    @property
    def fewest_models(self) -> int:
        """How many models the strategy needs to do what it promises."""
        match self.name:
            case "Krum":
                return 2 * self.num_malicious + 3
            case "MultiKrum":
                return max(2 * self.num_malicious + 3, self.num_selected + self.num_malicious)
            case "Bulyan":
                return 4 * self.num_malicious + 3
            case "FedTrimmedAvg":
                fewest = math.ceil(1 / self.trimmed_share)
                # 49 times the double nearest to 1/49 is less than 1, and Flower rounds down.
                return fewest + (int(self.trimmed_share * fewest) < 1)
            case _:
                return 1
