"""A few steps on what was just painted: what they give, and that they leave nothing behind."""

import hashlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hospital_rounds import ask, ids_of

from client import quick_update as module
from client.crop import Crop
from client.current_model import CurrentModel, load_current_model
from client.learning.predict import predict_probabilities
from client.local_round import Hospital
from client.propagation.fuse import fuse
from client.quick_update import SETTLED_SLICES, STEPS, Updated, quick_update
from client.store.annotations import latest_annotations
from client.store.label_maps import load_label_map
from client.store.rounds import Memory
from client.store.scans import load_scan
from client.store.store import Store
from common.networks.unet import SEGMENTER, build_networks, load_arrays
from common.plan import FederationPlan
from common.scans import LabelMap

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
CPU = torch.device("cpu")


class StoppedHereError(Exception):
    """Somebody painted the scan again."""


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Two tasks; the middle of each scan is painted."""
    return make_plan(annotation={"slice_choice": "centre"})


@pytest.fixture
def hospital(make_hospital: MakeHospital, plan: FederationPlan, paint: Paint) -> Hospital:
    """After two rounds on both tasks' painted slices."""
    hospital = make_hospital()
    paint(hospital, plan, "first", "second")
    for number in (1, 2):
        ask(hospital, plan, number)
    return hospital


@pytest.fixture
def model(hospital: Hospital, plan: FederationPlan) -> CurrentModel:
    """What it has after them."""
    found = load_current_model(hospital.store, plan)
    assert found is not None
    return found


def update(
    hospital: Hospital,
    plan: FederationPlan,
    model: CurrentModel,
    pause: Callable[[], None] = lambda: None,
) -> Updated:
    scan_id = ids_of(hospital, "first")[0]
    spread = (scan_id, load_label_map(hospital.store, scan_id, plan.federation).hard())
    return quick_update(hospital.store, plan, model, spread, device=CPU, pause=pause)


def labels_of(updated: Updated) -> LabelMap:
    assert updated.labels is not None
    return updated.labels


def state_of(store: Store) -> str:
    """A digest of every row and of every file of the store."""
    digest = hashlib.sha256()
    with store.read() as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for name in sorted(row["name"] for row in tables):
            for row in connection.execute(f"SELECT * FROM {name}"):
                digest.update(repr(tuple(row)).encode())
    for path in sorted((store.folder / "rounds").rglob("*")) + sorted(
        (store.folder / "arrays").rglob("*")
    ):
        digest.update(str(path).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def test_it_leaves_nothing_behind(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel
) -> None:
    before = state_of(hospital.store)
    weights = {name: array.copy() for name, array in model.arrays.items()}
    update(hospital, plan, model)
    assert state_of(hospital.store) == before
    for name, array in weights.items():
        np.testing.assert_array_equal(model.arrays[name], array)


def test_it_joins_the_painted_slices_with_a_network_that_moved_on(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel
) -> None:
    scan_id = ids_of(hospital, "first")[0]
    annotations = latest_annotations(hospital.store, scan_id)
    updated = update(hospital, plan, model)
    labels, crop = labels_of(updated), updated.crop
    (painted,) = crop.of_annotations(annotations)
    np.testing.assert_array_equal(labels.hard()[painted.ref.selection], painted.mask)
    network = build_networks(plan)[SEGMENTER]
    load_arrays(network, model.arrays, SEGMENTER)
    scan = crop.of_scan(load_scan(hospital.store, scan_id))
    untouched = predict_probabilities(network, scan, plan.training, device=CPU).numpy()
    spread = crop.of_labels(load_label_map(hospital.store, scan_id, plan.federation))
    as_sent = fuse(spread, [painted], untouched, plan.propagation)
    assert labels.classes == as_sent.classes
    assert float(np.abs(labels.soft - as_sent.soft).max()) > 1e-3


def test_the_same_slices_give_the_same_again(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel
) -> None:
    one, other = update(hospital, plan, model), update(hospital, plan, model)
    np.testing.assert_array_equal(labels_of(one).soft, labels_of(other).soft)
    assert one.suggestion == other.suggestion


def test_it_learns_what_was_painted(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With many steps instead of a few, the organ of a phantom is found away from its slice."""
    monkeypatch.setattr(module, "STEPS", 120)
    monkeypatch.setattr(module, "MOST_TRAINING_S", 60.0)
    many = update(hospital, plan, replace(model, memory=Memory()))
    (painted,) = latest_annotations(hospital.store, ids_of(hospital, "first")[0])
    found = np.zeros((24, 24, 16), bool)
    found[many.crop.box] = labels_of(many).hard() == 1
    truth = np.broadcast_to(painted.mask[:, :, None] == 1, found.shape)
    # The organ is a block: away from its ends, every slice looks like the painted one.
    middle = slice(6, 10)
    found = found[:, :, middle]
    overlap = 2 * (found & truth[:, :, middle]).sum() / (found.sum() + truth[:, :, middle].sum())
    assert overlap > 0.8


def test_a_suggestion_is_a_slice_that_is_not_settled_yet(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel
) -> None:
    found = update(hospital, plan, model)
    (painted,) = latest_annotations(hospital.store, ids_of(hospital, "first")[0])
    assert found.suggestion is not None, "a network of two rounds is in doubt"
    assert found.suggestion.ref.axis == 2
    assert abs(found.suggestion.ref.index - painted.ref.index) > SETTLED_SLICES
    assert f"axial {found.suggestion.ref.index}" in found.sentence


def test_with_all_slices_settled_it_was_enough(
    hospital: Hospital,
    plan: FederationPlan,
    model: CurrentModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SETTLED_SLICES", 16)
    found = update(hospital, plan, model)
    assert (found.suggestion, found.sentence) == (None, "one was enough")


def test_it_pauses_between_steps_and_ends_where_it_is_told_to(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel
) -> None:
    pauses = []
    update(hospital, plan, model, lambda: pauses.append(1))
    assert len(pauses) >= STEPS

    def stop() -> None:
        if len(pauses) > STEPS + 10:
            raise StoppedHereError
        pauses.append(1)

    with pytest.raises(StoppedHereError):
        update(hospital, plan, model, stop)


def test_it_takes_no_longer_than_there_is_time(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEPS", 1_000_000)
    monkeypatch.setattr(module, "MOST_TRAINING_S", 0.0)
    pauses = []
    update(hospital, plan, model, lambda: pauses.append(1))
    assert len(pauses) < 10, "one step is taken whatever the time"


def test_remembered_scans_that_are_gone_are_not_replayed(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel
) -> None:
    assert len(model.memory.entries) == 3
    gone = [replace(entry, scan_id="scan-0000000000000000") for entry in model.memory.entries]
    forgetful = replace(model, memory=replace(model.memory, entries=tuple(gone)))
    assert labels_of(update(hospital, plan, forgetful)).classes == (1,)


def test_a_scan_is_looked_at_whole_unless_it_is_large(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    hard = load_label_map(hospital.store, ids_of(hospital, "first")[0], plan.federation).hard()
    assert update(hospital, plan, model).crop == Crop((0, 0, 0), hard.shape)
    monkeypatch.setattr(module, "MOST_PREDICTED_VOXELS", hard.size - 1)
    monkeypatch.setattr(module, "MARGINS", (1, 0.25))
    found = update(hospital, plan, model).crop
    assert hard[found.box].sum() == hard.sum()
    # Half a training patch, 8 x 8 x 4, would be all of the scan again; a quarter of that is not.
    first = [
        max(int(n.min()) - side, 0) for n, side in zip(np.nonzero(hard), (2, 2, 1), strict=True)
    ]
    assert found.first == tuple(first)
    assert found.shape != hard.shape


def test_what_is_too_large_is_left_as_it_was_spread(
    hospital: Hospital, plan: FederationPlan, model: CurrentModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_NUMBERS", 3 * 1000)
    found = update(hospital, plan, model)
    assert (found.labels, found.suggestion) == (None, None)
    assert "too many voxels for the model to look at while you wait" in found.sentence
