"""The embedding of the segmenter's features: its first weights, and what travels of it."""

from typing import Any

import pytest
import torch

from common.networks.embedding import EMBEDDING, build_embedding
from common.networks.unet import (
    SEGMENTER,
    build_networks,
    features_and_logits,
    networks_to_arrays,
    num_last_features,
)
from common.plan import FederationPlan

Values = dict[str, Any]


def with_contrast(values: Values, **changes: Any) -> FederationPlan:
    prototypes = {"weight": 0.1, "embedding_length": 5, "background": 3}
    return FederationPlan.model_validate(
        {**values, "few_labels": {"prototypes": prototypes}, **changes}
    )


def test_there_is_none_without_a_contrast(plan: FederationPlan) -> None:
    assert build_embedding(plan) == {}


def test_what_travels_has_a_prototype_for_each_class(plan_values: Values) -> None:
    arrays = networks_to_arrays(build_embedding(with_contrast(plan_values)))
    # Two levels of 4 and 8 channels; three of the background and two classes.
    assert {name: array.shape for name, array in arrays.items()} == {
        "embedding/head.weight": (5, 12, 1, 1, 1),
        "embedding/head.bias": (5,),
        "embedding/prototypes": (5, 5),
    }
    assert not arrays["embedding/prototypes"].any()


def test_the_first_weights_depend_on_the_seed_alone(plan_values: Values) -> None:
    heads = []
    for seed in (0, 0, 1):
        torch.manual_seed(len(heads))
        embedding = build_embedding(with_contrast(plan_values, seed=seed))[EMBEDDING]
        heads.append(embedding.head.weight)
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_backgrounds_prototypes_come_first(plan_values: Values) -> None:
    embedding = build_embedding(with_contrast(plan_values))[EMBEDDING]
    assert embedding.class_of_prototype().tolist() == [0, 0, 0, 1, 2]


@pytest.mark.parametrize("levels", [[4, 8], [4, 8, 16]])
def test_features_and_logits_are_those_of_the_network(
    plan_values: Values, levels: list[int]
) -> None:
    size = {"channels": levels, "strides": [2] * (len(levels) - 1)}
    plan = FederationPlan.model_validate({**plan_values, "segmenter": size})
    network = build_networks(plan)[SEGMENTER]
    image = torch.randn(2, 1, 8, 8, 16, generator=torch.Generator().manual_seed(0))
    features, logits = features_and_logits(network, image)
    assert torch.equal(logits, network(image))
    assert features.shape == (2, num_last_features(plan.segmenter), 4, 4, 8)
