"""A segmenter fitted on one painted slice of each of many scans: the cohort's network.

What the federated segmenter is to a hospital, made here without a federation, for comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from monai.networks.nets import UNet

from client.learning.examples import Example
from client.learning.predict import predict_probabilities
from client.propagation.spread_labels import painted_labels
from common.networks.unet import SEGMENTER, build_networks
from common.plan import FederationPlan
from common.scans import Scan, SliceAnnotation
from simulations.comparison_plan import comparison_plan
from simulations.pooled_training import train_pooled


@dataclass(frozen=True)
class CohortNetwork:
    """A fitted segmenter. Its labels are 1 to n, whatever their values in the data set."""

    network: UNet
    plan: FederationPlan
    device: torch.device

    def predict(self, scan: Scan) -> Float[np.ndarray, "n i j k"]:
        """Class probabilities on the scan's own grid, background first."""
        probabilities: Float[np.ndarray, "n i j k"] = predict_probabilities(
            self.network, scan, self.plan.training, device=self.device
        ).numpy()
        return probabilities


def fit_cohort_network(
    scans: Sequence[Scan],
    annotations: Sequence[SliceAnnotation],
    *,
    steps: int,
    seed: int,
    device: torch.device,
) -> CohortNetwork:
    """Fits a segmenter to the painted slices alone, one of each scan; labels are 1 to n."""
    plan = comparison_plan(scans, len(annotations[0].looked_for), seed)
    examples = {
        scan.scan_id: Example(scan, painted_labels(scan.geometry.shape, [one]), plan.num_classes)
        for scan, one in zip(scans, annotations, strict=True)
    }
    network = build_networks(plan)[SEGMENTER]
    train_pooled(network, examples, plan, steps=steps, stream=("cohort network",), device=device)
    return CohortNetwork(network, plan, device)
