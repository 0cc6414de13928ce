"""Classes that no task has taught yet count as background."""

from collections.abc import Callable

import torch

from client.learning.unlearned import pool_unlearned, unlearned_classes
from common.plan import FederationPlan

MakePlan = Callable[..., FederationPlan]


def test_their_probability_is_the_backgrounds() -> None:
    voxel = torch.tensor([0.1, 0.2, 0.3, 0.4])
    volume = voxel[:, None, None, None].expand(4, 2, 3, 1)
    pooled = pool_unlearned(volume, (1, 3))
    torch.testing.assert_close(pooled[:, 1, 2, 0], torch.tensor([0.7, 0.0, 0.3, 0.0]))
    # Patches of a batch likewise; what was given stays as it was.
    torch.testing.assert_close(pool_unlearned(volume[None], (1, 3))[0], pooled)
    torch.testing.assert_close(volume[:, 0, 0, 0], voxel)
    assert pool_unlearned(volume, ()) is volume


def test_a_class_is_learned_from_the_first_round_of_its_stage_on(make_plan: MakePlan) -> None:
    task = {"modality": "MR", "plane": "axial", "rounds": 2}
    plan = make_plan(
        labels=[{"name": name, "index": place} for place, name in enumerate("abc", 1)],
        tasks=[
            {"name": "first", "classes": ["b"], **task},
            {"name": "second", "classes": ["a", "b"], **task},
        ],
    )
    found = [unlearned_classes(plan, number) for number in range(5)]
    assert found == [(1, 3), (1, 3), (1, 3), (3,), (3,)]
