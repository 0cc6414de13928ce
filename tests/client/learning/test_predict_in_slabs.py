"""Slab after slab gives what the whole scan gives at once."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Conv3d, InstanceNorm3d, Module, Sequential

from client.learning.predict import OVERLAP, predict_probabilities
from client.learning.predict_in_slabs import Slab, predict_in_slabs
from common.plan import FederationPlan
from common.scans import Geometry, Scan

CPU = torch.device("cpu")
THIN = 1  # byte: slabs as thin as may be


def scan_of(*shape: int) -> Scan:
    i, j, k = shape
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    geometry = Geometry((i, j, k), tuple(tuple(row) for row in np.eye(4).tolist()))
    return Scan("scan", image, geometry, "MR")


def plan_with(spacing_mm: tuple[float, float, float] | None) -> FederationPlan:
    size = {"channels": [4, 8], "strides": [2]}
    task = {"name": "t", "classes": ["a"], "modality": "MR", "plane": "axial", "rounds": 1}
    labels = [{"name": "a", "index": 1}, {"name": "b", "index": 2}]
    return FederationPlan.model_validate(
        {
            "name": "test",
            "labels": labels,
            "tasks": [task],
            "segmenter": size,
            "student": size,
            "training": {"patch_size": [8, 8, 8], "batch_size": 2, "spacing_mm": spacing_mm},
            "limits": {"hospitals": 1},
        }
    )


class Counter(Module):
    """Counts windows; what it says of a voxel depends on all others of the window."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = Sequential(Conv3d(1, 3, 5, padding=2), InstanceNorm3d(3))
        self.windows = 0

    def forward(self, image: Tensor) -> Tensor:
        self.windows += len(image)
        logits: Tensor = 3 * self.layers(image)
        return logits


def slabs_of(
    scan: Scan, plan: FederationPlan, slab_bytes: int, overlap: float = OVERLAP
) -> tuple[list[Slab], int]:
    network = Counter()
    slabs = predict_in_slabs(
        network, scan, plan, overlap=overlap, device=CPU, slab_bytes=slab_bytes
    )
    return list(slabs), network.windows


@pytest.mark.parametrize(
    "spacing_mm",
    [None, (2.0, 0.7, 1.3), (0.5, 0.5, 0.5), (9.0, 9.0, 9.0), (1.0, 1.0, 1.0), (2.0, 2.0, 1.0)],
)
@pytest.mark.parametrize("shape", [(12, 17, 9), (40, 9, 10), (10, 10, 37), (3, 20, 5), (1, 1, 1)])
def test_slabs_joined_are_the_whole(
    shape: tuple[int, int, int], spacing_mm: tuple[float, float, float] | None
) -> None:
    scan, plan = scan_of(*shape), plan_with(spacing_mm)
    whole = predict_probabilities(Counter(), scan, plan.training, device=CPU)
    slabs, _ = slabs_of(scan, plan, THIN)
    joined = torch.cat([slab.probabilities for slab in slabs], dim=1 + slabs[0].axis)
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-5)
    thickness = [slab.probabilities.shape[1 + slab.axis] for slab in slabs]
    assert [slab.first for slab in slabs] == [sum(thickness[:n]) for n in range(len(slabs))]


def test_what_fits_is_one_slab_to_the_bit() -> None:
    scan, plan = scan_of(12, 17, 9), plan_with(None)
    (slab,), _ = slabs_of(scan, plan, 4 * 3 * 12 * 17 * 9)
    whole = predict_probabilities(Counter(), scan, plan.training, device=CPU)
    assert torch.equal(slab.probabilities, whole)


def test_the_cut_runs_where_most_windows_follow_each_other() -> None:
    # Windows of 8: five along axis 1, two along the others.
    slabs, windows = slabs_of(scan_of(9, 24, 9), plan_with(None), THIN)
    assert [(slab.axis, slab.first) for slab in slabs] == [(1, 0), (1, 8), (1, 16)]
    # At 0, 4, 8, 12 and 16; slabs of 8 see 0 4, 4 8 12, and 12 16: seven rows of four.
    assert windows == 7 * 4


def test_less_overlap_takes_fewer_windows() -> None:
    scan, plan = scan_of(26, 8, 8), plan_with(None)
    # At 0, 4, ..., 16, 18; at 0, 6, 12, 18.
    assert [slabs_of(scan, plan, 10**9, overlap)[1] for overlap in (0.5, 0.25)] == [6, 4]
    joined = torch.cat([s.probabilities for s in slabs_of(scan, plan, THIN, 0.25)[0]], dim=1)
    whole = slabs_of(scan, plan, 10**9, 0.25)[0][0].probabilities
    torch.testing.assert_close(joined, whole, rtol=0, atol=1e-6)
