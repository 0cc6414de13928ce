"""What is given out and what comes back of it; what was changed is refused with the reason."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save

from common.errors import ReleaseError
from common.networks.released import released_networks
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.released_models import (
    ReleaseRecord,
    read_record,
    read_release,
    trained_roles,
    write_release,
)
from common.updates import Arrays
from common.version import SOFTWARE


@pytest.fixture
def arrays(plan: FederationPlan) -> Arrays:
    """First weights, and what else a federation may have learnt."""
    networks = networks_to_arrays(build_networks(plan.model_copy(update={"seed": 1})))
    return {**networks, "correspondence/log_length": np.float32([1.5])}


@pytest.fixture
def folder(tmp_path: Path, plan: FederationPlan, arrays: Arrays) -> Path:
    """A release of round 4."""
    write_release(tmp_path / "release", save(arrays), plan, 4)
    return tmp_path / "release"


def _change(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "release.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_what_is_written_is_read(folder: Path, plan: FederationPlan, arrays: Arrays) -> None:
    release = read_release(folder)
    assert release.record == ReleaseRecord(
        generation=1,
        federation=plan.federation,
        round=4,
        plan=plan,
        models_sha256=hashlib.sha256(save(arrays)).hexdigest(),
        software=SOFTWARE,
    )
    assert release.record == read_record(folder)
    assert release.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(release.arrays[name], array)
    assert sorted(path.name for path in folder.iterdir()) == ["models.safetensors", "release.json"]


def test_a_plan_may_train_no_student(plan: FederationPlan) -> None:
    assert trained_roles(plan) == ("segmenter", "student")
    training = plan.training.model_copy(update={"student_steps_per_round": 0})
    assert trained_roles(plan.model_copy(update={"training": training})) == ("segmenter",)


@pytest.mark.parametrize("name", ["release.json", "models.safetensors"])
def test_a_folder_without_one_of_both_is_no_release(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ReleaseError, match=f"expected a release, .*there is no .*{name}"):
        read_release(folder)
    with pytest.raises(ReleaseError, match="expected a release"):
        read_release(folder / "release.json")


def test_one_changed_byte_of_the_models_is_noticed(folder: Path) -> None:
    path = folder / "models.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ReleaseError, match=r"models\.safetensors was changed: expected SHA-256 "):
        read_release(folder)


def test_a_changed_label_dictionary_is_noticed(folder: Path, plan: FederationPlan) -> None:
    _change(folder, lambda values: values["plan"]["labels"][0].update(snomed="10200004"))
    with pytest.raises(ReleaseError, match=rf"changed: .* expected {plan.federation}\. Fetch"):
        read_release(folder)


def test_a_plan_of_another_version_has_another_hash(folder: Path) -> None:
    """It may have settings that this one lacks, or lack some of ours."""
    _change(folder, lambda values: values.update(software="99.0", federation="small-00000000"))
    assert read_release(folder).record.software == "99.0"


def test_another_generation_is_refused_before_its_keys_are_read(folder: Path) -> None:
    _change(folder, lambda values: values.update(generation=2, software="99.0", more={}))
    with pytest.raises(ReleaseError, match=r"generation 1, this one is of 2 \(OneSlice '99\.0'\)"):
        read_release(folder)


def test_an_unknown_key_names_the_version_that_wrote_it(folder: Path) -> None:
    _change(folder, lambda values: values.update(more=1, software="99.0"))
    with pytest.raises(ReleaseError, match=r"more = 1: unknown key;(.|\n)*OneSlice '99\.0'"):
        read_release(folder)


@pytest.mark.parametrize("text", ["", "[]", "nothing", "[" * 100_000, '"\\ud800"', "\x00"])
def test_a_record_that_is_none(folder: Path, text: str) -> None:
    (folder / "release.json").write_text(text)
    with pytest.raises(ReleaseError, match=r"release\.json"):
        read_release(folder)


def _without(name: str) -> Callable[[Arrays], Arrays]:
    return lambda arrays: {key: one for key, one in arrays.items() if not key.startswith(name)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without("student/"), r"missing \['student/model.0"),
        (lambda arrays: {**arrays, "student/more": np.zeros(1)}, r"not asked for \['student/more"),
        (
            lambda arrays: {name: one.astype(np.float64) for name, one in arrays.items()},
            "expected float32 .* got float64",
        ),
        (
            lambda arrays: {name: np.full_like(one, np.nan) for name, one in arrays.items()},
            "expected finite numbers",
        ),
    ],
)
def test_models_of_other_networks_are_refused(
    tmp_path: Path,
    plan: FederationPlan,
    arrays: Arrays,
    change: Callable[[Arrays], Arrays],
    message: str,
) -> None:
    write_release(tmp_path, save(change(arrays)), plan, 4)
    release = read_release(tmp_path)
    with pytest.raises(ReleaseError, match=rf"not hold the models of {plan.federation}.*{message}"):
        released_networks(release)


def test_the_networks_have_the_released_weights(folder: Path, arrays: Arrays) -> None:
    networks = released_networks(read_release(folder))
    found = networks_to_arrays(networks)
    assert found.keys() == {name for name in arrays if not name.startswith("correspondence/")}
    for name, array in found.items():
        np.testing.assert_array_equal(array, arrays[name])
    assert not any(network.training for network in networks.values())


def test_classes_that_no_task_has_taught_by_then_are_silent(
    tmp_path: Path, plan: FederationPlan, arrays: Arrays
) -> None:
    """The second stage, and with it the second class, begins with the third round."""
    image = torch.rand(1, plan.channels, *plan.training.patch_size)
    found = {}
    for number in (2, 3):
        write_release(tmp_path / str(number), save(arrays), plan, number)
        networks = released_networks(read_release(tmp_path / str(number)))
        with torch.inference_mode():
            found[number] = [network(image).softmax(1) for network in networks.values()]
    for before, after in zip(found[2], found[3], strict=True):
        assert not before[:, 2].any()
        assert after[:, 2].all()
        torch.testing.assert_close(before[:, :2], after[:, :2] / after[:, :2].sum(1, keepdim=True))


def test_bytes_that_are_no_safetensors(tmp_path: Path, plan: FederationPlan) -> None:
    write_release(tmp_path, b"half", plan, 4)
    with pytest.raises(ReleaseError, match="does not hold models"):
        read_release(tmp_path)
