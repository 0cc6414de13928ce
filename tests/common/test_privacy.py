"""What a plan may ask for in clipping and noise."""

from typing import Any

import pytest

from common.errors import SettingsError
from common.plan import FederationPlan
from common.privacy import Privacy
from common.settings_file import parse_settings


def test_nothing_is_promised_unless_noise_is_asked_for() -> None:
    assert Privacy().clipping_norm is None
    assert not Privacy().adds_noise
    assert not Privacy(clipping_norm=1.0).adds_noise
    assert Privacy(clipping_norm=1.0, noise_multiplier=0.1).adds_noise


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"noise_multiplier": 1.0}, r"noise_multiplier = 1 is counted in clipping norms: set clip"),
        ({"clipping_norm": 0}, r"clipping_norm = 0"),
        ({"clipping_norm": 1, "noise_multiplier": -1}, r"noise_multiplier = -1"),
        ({"clipping_norm": 1, "delta": 1}, r"delta = 1"),
        ({"clipping_norm": 1, "epsilon": 1}, r"epsilon = 1.*unknown key"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SettingsError, match=complaint):
        parse_settings(Privacy, values, "privacy")


@pytest.mark.parametrize(
    ("sections", "complaint"),
    [
        ({"strategy": {"name": "FedMedian"}}, r"use FedAvg or FedProx, not FedMedian"),
        ({"propagation": {"segmenter_from": 0.5}}, r"segmenter_from needs the hospitals' scores"),
        (
            {"few_labels": {"pseudo_labels": {"teacher_from": 0.5}}},
            r"few_labels\.pseudo_labels\.teacher_from needs the hospitals' scores",
        ),
        ({"few_labels": {"prototypes": {"weight": 0.1}}}, r"noise would give a prototype"),
        ({"wire": "float16-deltas"}, r'rounds them first: set wire = "float32", or leave out'),
    ],
)
def test_noise_is_refused_where_its_promise_would_not_hold(
    plan_values: dict[str, Any], sections: dict[str, Any], complaint: str
) -> None:
    plan_values["limits"] = {"hospitals": 3, "quorum": 3}
    plan_values.update(sections)
    clipped = {**plan_values, "privacy": {"clipping_norm": 1.0}}
    assert parse_settings(FederationPlan, clipped, "plan").privacy.clipping_norm == 1.0
    noisy = {**plan_values, "privacy": {"clipping_norm": 1.0, "noise_multiplier": 1.0}}
    with pytest.raises(SettingsError, match=complaint):
        parse_settings(FederationPlan, noisy, "plan")
