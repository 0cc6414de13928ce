"""Networks that get new classes: nothing that is known changes, and the new ones win nowhere."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from common.networks.embedding import EMBEDDING
from common.networks.grow import grow_arrays
from common.networks.unet import (
    SEGMENTER,
    STUDENT,
    build_networks,
    load_arrays,
    networks_to_arrays,
)
from common.plan import FederationPlan
from common.updates import Arrays

Values = dict[str, Any]
MakePlan = Callable[..., FederationPlan]


@pytest.fixture
def make_plan(plan_values: Values) -> MakePlan:
    """Plans with so many classes more than two, in networks of one kind of top."""

    def make(added: int, residual_units: int) -> FederationPlan:
        labels = [{"name": f"new {n}", "index": 3 + n} for n in range(added)]
        size = {"channels": [4, 8, 8], "strides": [2, 2], "residual_units": residual_units}
        changes = {"labels": [*plan_values["labels"], *labels], "segmenter": size, "student": size}
        if added:
            last = plan_values["tasks"][-1]
            new = {**last, "name": "new", "classes": [label["name"] for label in labels]}
            changes["tasks"] = [*plan_values["tasks"], new]
        return FederationPlan.model_validate({**plan_values, **changes})

    return make


def trained(plan: FederationPlan) -> Arrays:
    """Weights of a federation that has gone far from its first ones."""
    rng = np.random.default_rng(3)
    arrays = networks_to_arrays(build_networks(plan))
    return {
        name: array + rng.normal(0, 0.3, array.shape).astype(array.dtype)
        for name, array in arrays.items()
    }


def logits(
    plan: FederationPlan, arrays: Arrays, role: str, number: int | None = None
) -> Float[Tensor, "b n i j k"]:
    """Of the network as it is, or after a round, when classes to come are silent."""
    network = build_networks(plan, number)[role]
    load_arrays(network, arrays, role)
    image = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 1, 16, 16, 16)))
    with torch.inference_mode():
        out: Tensor = network(image.float())
    return out


@pytest.mark.parametrize("role", [SEGMENTER, STUDENT])
@pytest.mark.parametrize("residual_units", [0, 1, 2])
@pytest.mark.parametrize("added", [1, 3])
def test_old_logits_stay_and_a_new_one_wins_nowhere_until_its_stage(
    make_plan: MakePlan, added: int, residual_units: int, role: str
) -> None:
    before, after = make_plan(0, residual_units), make_plan(added, residual_units)
    arrays = trained(before)
    grown = grow_arrays(arrays, networks_to_arrays(build_networks(after)))
    old, new = logits(before, arrays, role), logits(after, grown, role)
    torch.testing.assert_close(new[:, :3], old, rtol=1e-4, atol=1e-4)
    for number in range(3, 3 + added):
        assert new[:, number].std() > 0  # it sees something of its own
    silent = logits(after, grown, role, before.num_rounds)
    assert torch.equal(silent.argmax(1), old.argmax(1))
    assert len(old.argmax(1).unique()) == 3


@pytest.mark.parametrize("residual_units", [0, 2])
def test_old_weights_stay_to_the_bit(make_plan: MakePlan, residual_units: int) -> None:
    before, after = make_plan(0, residual_units), make_plan(2, residual_units)
    arrays, fresh = trained(before), networks_to_arrays(build_networks(after))
    grown = grow_arrays(arrays, fresh)
    assert list(grown) == list(fresh)
    larger = 0
    for name, array in grown.items():
        assert (array.shape, array.dtype) == (fresh[name].shape, fresh[name].dtype)
        known = array[tuple(slice(size) for size in arrays[name].shape)]
        assert known.tobytes() == arrays[name].tobytes()
        larger += array.shape != arrays[name].shape
    # A transposed convolution with its bias, and a residual unit's above it: in two networks.
    assert larger == (4 if residual_units == 0 else 8)


@pytest.mark.parametrize("residual_units", [0, 2])
def test_what_is_new_is_as_in_a_plan_that_had_it_from_the_beginning(
    make_plan: MakePlan, residual_units: int
) -> None:
    before, after = make_plan(0, residual_units), make_plan(1, residual_units)
    old, fresh = trained(before), networks_to_arrays(build_networks(after))
    grown = grow_arrays(old, fresh)
    for name in fresh:
        is_new = np.ones(fresh[name].shape, bool)
        is_new[tuple(slice(size) for size in old[name].shape)] = False
        if residual_units and name.endswith("conv.unit0.conv.weight") and is_new.any():
            # From classes to classes: old logits take nothing from new features.
            assert not grown[name][:3, 3:].any()
            is_new[:3, 3:] = False
        np.testing.assert_array_equal(grown[name][is_new], fresh[name][is_new])


def test_nothing_grows_where_no_class_is_new(make_plan: MakePlan) -> None:
    plan = make_plan(0, 2)
    arrays = trained(plan)
    grown = grow_arrays(arrays, networks_to_arrays(build_networks(plan)))
    assert all(grown[name].tobytes() == arrays[name].tobytes() for name in arrays)


def test_a_new_class_has_no_prototype_yet() -> None:
    old = {f"{EMBEDDING}/prototypes": np.arange(6, dtype=np.float32).reshape(3, 2)}
    fresh = {f"{EMBEDDING}/prototypes": np.ones((4, 2), np.float32)}
    (grown,) = grow_arrays(old, fresh).values()
    np.testing.assert_array_equal(grown, [[0, 1], [2, 3], [4, 5], [0, 0]])


def test_networks_that_only_one_plan_has() -> None:
    old = {"a/weight": np.ones(2), "gone/weight": np.ones(3)}
    fresh = {"a/weight": np.zeros(2), "new/weight": np.zeros(4)}
    grown = grow_arrays(old, fresh)
    assert grown.keys() == {"a/weight", "new/weight"}
    assert grown["a/weight"].tolist() == [1, 1]
    assert grown["new/weight"].tolist() == [0, 0, 0, 0]


def test_what_was_given_is_left_as_it_was(make_plan: MakePlan) -> None:
    arrays = trained(make_plan(0, 1))
    copies = {name: array.copy() for name, array in arrays.items()}
    grow_arrays(arrays, networks_to_arrays(build_networks(make_plan(1, 1))))
    assert all(np.array_equal(arrays[name], copies[name]) for name in copies)
