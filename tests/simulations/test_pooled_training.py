"""Training in one place: how long, and how the rate falls."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from hospital_rounds import assert_same_arrays
from small_scenario import small_scenario

from client.distillation.pairs import Cohort
from client.learning.batches import Batch
from client.learning.examples import Example
from common.networks.unet import SEGMENTER, STUDENT, build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.scans import Geometry, LabelMap, Scan
from simulations import pooled_training
from simulations.pooled_training import train_pooled, train_pooled_student

SHAPE = (8, 20, 16)


def example() -> Example:
    identity = tuple(tuple(row) for row in np.eye(4).tolist())
    image = np.linspace(0, 1, 8 * 20 * 16, dtype=np.float32).reshape(1, *SHAPE)
    soft = np.stack([image[0] < 0.5, image[0] >= 0.5]).astype(np.float32)
    everywhere = np.ones(SHAPE, dtype=bool)
    labels = LabelMap((1,), soft, everywhere.astype(np.float32), everywhere, (), "expert")
    return Example(Scan("one", image, Geometry(SHAPE, identity), "MR"), labels, 3)


def test_all_steps_are_taken_while_the_rate_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple[int, float]] = []
    real = pooled_training.train_segmenter

    def noted(network: Any, batches: Iterable[Batch], *rest: Any, **named: Any) -> float | None:
        drawn = list(batches)
        taken.append((len(drawn), named["learning_rate"]))
        return real(network, drawn, *rest, **named)

    monkeypatch.setattr(pooled_training, "train_segmenter", noted)
    plan = small_scenario().plan
    network = build_networks(plan)[SEGMENTER]
    before = [parameter.detach().clone() for parameter in network.parameters()]
    cpu = torch.device("cpu")
    train_pooled(network, {"one": example()}, plan, steps=23, stream=("a test",), device=cpu)
    # 23 steps in ten parts: 2, 2, 2, 3, ...
    assert [steps for steps, _ in taken] == [2, 2, 2, 3, 2, 2, 3, 2, 2, 3]
    rates = [rate for _, rate in taken]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] == pytest.approx(plan.training.learning_rate)
    assert rates[-1] == pytest.approx(
        plan.training.learning_rate * plan.training.final_learning_rate_share
    )
    pairs = zip(before, network.parameters(), strict=True)
    assert any((one != other).any() for one, other in pairs)


def test_a_student_is_trained_on_all_that_its_plan_says() -> None:
    values = small_scenario().plan.model_dump()
    values["distillation"].update(pairs=1.0, hint=1.0, registration_steps=1)
    plan = FederationPlan.model_validate(values)
    one, cpu = example(), torch.device("cpu")
    cohort = Cohort(["one"], [], {"one": ["one"]}, lambda _: one, lambda _: one.scan)

    def trained(wanted: FederationPlan) -> dict[str, torch.Tensor]:
        networks = build_networks(wanted)
        student, segmenter = networks[STUDENT], networks[SEGMENTER]
        before = networks_to_arrays({SEGMENTER: segmenter})
        train_pooled_student(
            student, segmenter, cohort, wanted, steps=10, stream=("a test",), device=cpu
        )
        assert_same_arrays(before, networks_to_arrays({SEGMENTER: segmenter}))
        return student.state_dict()

    first, plain = trained(plan), trained(small_scenario().plan)
    assert any(not torch.equal(first[name], plain[name]) for name in first)
