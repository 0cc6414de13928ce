"""The federated networks: their first weights, their arrays, their shapes."""

from typing import Any

import numpy as np
import pytest
import torch

from common.networks.unet import (
    SEGMENTER,
    STUDENT,
    build_networks,
    build_unet,
    count_parameters,
    features_and_logits,
    keep_silent,
    load_arrays,
    networks_to_arrays,
    way_up,
)
from common.plan import FederationPlan, NetworkSize
from common.updates import Arrays

Values = dict[str, Any]


def _size(channels: list[int], strides: list[Any]) -> NetworkSize:
    return NetworkSize.model_validate({"channels": channels, "strides": strides})


def _first_weights(plan: FederationPlan) -> Arrays:
    return networks_to_arrays(build_networks(plan))


def test_the_seed_alone_fixes_the_first_weights(plan: FederationPlan) -> None:
    torch.manual_seed(1)
    first = _first_weights(plan)
    torch.manual_seed(2)
    second = _first_weights(plan)
    assert first.keys() == second.keys()
    assert all(first[name].tobytes() == second[name].tobytes() for name in first)


def test_another_seed_gives_other_weights(plan_values: Values, plan: FederationPlan) -> None:
    here = _first_weights(plan)
    there = _first_weights(FederationPlan.model_validate({**plan_values, "seed": 1}))
    drawn = [name for name in here if here[name].std() > 0]
    assert drawn
    assert not any(np.array_equal(here[name], there[name]) for name in drawn)


def test_the_students_weights_are_a_stream_of_their_own(plan_values: Values) -> None:
    plan_values["student"] = plan_values["segmenter"]
    arrays = _first_weights(FederationPlan.model_validate(plan_values))
    names = [name.removeprefix("segmenter/") for name in arrays if name.startswith("segmenter/")]
    drawn = [name for name in names if arrays[f"segmenter/{name}"].std() > 0]
    assert drawn
    for name in drawn:
        assert not np.array_equal(arrays[f"segmenter/{name}"], arrays[f"student/{name}"])


def test_building_leaves_torchs_generator_as_it_was(plan: FederationPlan) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    build_networks(plan)
    assert torch.equal(torch.rand(4), expected)


def test_arrays_go_into_a_network_and_come_out_again(plan: FederationPlan) -> None:
    arrays = _first_weights(plan)
    marked = {name: array + np.float32(1) for name, array in arrays.items()}
    networks = build_networks(plan)
    for role, network in networks.items():
        load_arrays(network, marked, role)
    came = networks_to_arrays(networks)
    assert list(came) == list(marked)
    for name, array in marked.items():
        assert came[name].dtype == np.float32
        np.testing.assert_array_equal(came[name], array)


def test_arrays_are_copies_both_ways(plan: FederationPlan) -> None:
    networks = build_networks(plan)
    arrays = networks_to_arrays(networks)
    kept = {name: array.copy() for name, array in arrays.items()}
    load_arrays(networks[SEGMENTER], arrays, SEGMENTER)
    with torch.no_grad():
        for weights in networks[SEGMENTER].parameters():
            weights.fill_(5)
    assert all(np.array_equal(arrays[name], kept[name]) for name in kept)


def test_arrays_that_may_only_be_read_can_be_loaded(plan: FederationPlan) -> None:
    # What safetensors reads from bytes may not be written; torch warns if it shares that memory.
    arrays = _first_weights(plan)
    for array in arrays.values():
        array.flags.writeable = False
    load_arrays(build_networks(plan)[STUDENT], arrays, STUDENT)


def test_a_missing_tensor_is_not_filled_in(plan: FederationPlan) -> None:
    arrays = _first_weights(plan)
    lost = next(name for name in arrays if name.startswith("segmenter/"))
    del arrays[lost]
    with pytest.raises(RuntimeError, match=lost.removeprefix("segmenter/")):
        load_arrays(build_networks(plan)[SEGMENTER], arrays, SEGMENTER)


def test_there_are_no_running_statistics(plan: FederationPlan) -> None:
    for network in build_networks(plan).values():
        kinds = [type(module).__name__ for module in network.modules()]
        assert "InstanceNorm3d" in kinds
        assert not [kind for kind in kinds if kind.startswith(("BatchNorm", "SyncBatchNorm"))]
        assert not list(network.buffers())
        assert network.state_dict().keys() == dict(network.named_parameters()).keys()


def test_every_array_carries_one_of_both_prefixes(plan: FederationPlan) -> None:
    arrays = _first_weights(plan)
    assert {name.split("/")[0] for name in arrays} == {SEGMENTER, STUDENT}
    both = count_parameters(arrays, SEGMENTER) + count_parameters(arrays, STUDENT)
    assert both == sum(array.size for array in arrays.values())


def test_a_network_of_the_usual_size_has_about_600_000_weights() -> None:
    network = build_unet(_size([16, 32, 64, 128], [2, 2, 2]), in_channels=1, num_classes=3)
    number = sum(weights.numel() for weights in network.parameters())
    assert 550_000 < number < 650_000


@pytest.mark.parametrize(
    ("channels", "strides", "shape"),
    [
        ([2, 4], [2], (4, 6, 8)),
        ([2, 3, 4], [2, [1, 2, 2]], (2, 4, 8)),
        ([2, 3, 4], [[2, 2, 1], [2, 2, 1]], (8, 4, 3)),
        ([2, 3], [[4, 1, 2]], (8, 3, 2)),
    ],
)
def test_the_output_has_the_shape_of_the_input(
    channels: list[int], strides: list[Any], shape: tuple[int, int, int]
) -> None:
    network = build_unet(_size(channels, strides), in_channels=2, num_classes=5)
    image = torch.zeros((3, 2, *shape))
    assert network(image).shape == (3, 5, *shape)


@pytest.mark.parametrize("residual_units", [0, 1])
def test_what_the_way_up_gets_is_what_it_makes_logits_of(residual_units: int) -> None:
    size = NetworkSize(channels=(2, 3, 4, 5), strides=(2, 2, 1), residual_units=residual_units)
    network = build_unet(size, in_channels=1, num_classes=2)
    image = torch.randn(1, 1, 8, 8, 8)
    features, logits = way_up(network, image, levels=2)
    assert torch.equal(logits, network(image))
    # Each layer gets the channels of the way down and as many from below, on the grid of its own.
    assert [(*one.shape,) for one in features] == [(1, 6, 2, 2, 2), (1, 4, 4, 4, 4)]
    assert torch.equal(features_and_logits(network, image)[0], features[-1])


def test_a_flat_network_has_one_layer_up() -> None:
    network = build_unet(_size([2, 4], [2]), in_channels=1, num_classes=2)
    features, _ = way_up(network, torch.randn(1, 1, 8, 8, 8), levels=2)
    assert [one.shape[1] for one in features] == [2 + 4]


@pytest.mark.parametrize("residual_units", [0, 2])
def test_a_silent_class_wins_nothing_and_learns_nothing(residual_units: int) -> None:
    size = NetworkSize(channels=(4, 8, 8), strides=(2, 2), residual_units=residual_units)
    network = build_unet(size, in_channels=1, num_classes=4)
    image = torch.rand(1, 1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    before = network(image).softmax(1).detach()
    keep_silent(network, [1, 3])
    for logits in (network(image), features_and_logits(network, image)[1]):
        found = logits.softmax(1)
        assert not found[:, [1, 3]].any()
        wanted = before[:, [0, 2]] / before[:, [0, 2]].sum(1, keepdim=True)
        torch.testing.assert_close(found[:, [0, 2]].detach(), wanted)
    logits.retain_grad()
    logits.log_softmax(1)[:, 2].mean().backward()
    assert logits.grad is not None
    assert not logits.grad[:, [1, 3]].any()
    assert logits.grad[:, [0, 2]].all()


def test_a_class_is_silent_until_the_stage_that_teaches_it(plan_values: Values) -> None:
    labels = [*plan_values["labels"], {"name": "never", "index": 3}]
    plan = FederationPlan.model_validate({**plan_values, "labels": labels})
    image = torch.rand(1, plan.channels, *plan.training.patch_size)

    def silent(number: int | None) -> list[int]:
        found = build_networks(plan, number)[SEGMENTER](image).softmax(1).amax((0, 2, 3, 4))
        return [index for index, most in enumerate(found.tolist()) if most == 0]

    # The second stage begins with the third round.
    expected = [[2, 3], [2, 3], [2, 3], [3], [3], [3]]
    assert [silent(number) for number in (0, 1, 2, 3, 4, None)] == expected
