"""The newest models that came: which count, whatever is killed, damaged or sent again."""

import logging
import os
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from client.store import received_models
from client.store.atomic_files import UNFINISHED
from client.store.leftovers import find_leftovers, remove_leftovers
from client.store.received_models import EARLIER, RECEIVED, goes_on_from, keep_received, load_newest
from client.store.store import Store
from common.errors import ReleaseError, SettingsError, StoreError
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import Earlier, FederationPlan
from common.updates import Arrays, RoundRequest


def weights(plan: FederationPlan, value: float) -> Arrays:
    arrays = networks_to_arrays(build_networks(plan))
    return {name: np.full_like(array, value) for name, array in arrays.items()}


def receive(
    store: Store,
    plan: FederationPlan,
    number: int,
    value: float,
    action: Literal["train", "score"] = "train",
) -> None:
    keep_received(store, RoundRequest(action=action, plan=plan, round=number), weights(plan, value))


def newest(store: Store) -> tuple[int, float]:
    release = load_newest(store)
    return release.record.round, float(next(iter(release.arrays.values())).flat[0])


def kept(store: Store) -> list[str]:
    return sorted(path.name[:11] for path in store.folder.glob(f"{RECEIVED}/*/*"))


def test_a_round_brings_the_models_of_the_one_before(store: Store, plan: FederationPlan) -> None:
    receive(store, plan, 2, 1.0)
    assert newest(store) == (1, 1.0)
    receive(store, plan, 2, 2.0, "score")
    assert newest(store) == (2, 2.0)
    assert kept(store) == ["round-00002"]


def test_weights_that_nobody_trained_are_not_kept(store: Store, plan: FederationPlan) -> None:
    receive(store, plan, 1, 1.0)
    receive(store, plan, 0, 1.0, "score")
    assert kept(store) == []
    with pytest.raises(StoreError, match="north has received no trained models yet"):
        load_newest(store)


def test_nor_those_of_the_earlier_federation_or_of_self_learning(
    store: Store, plan: FederationPlan
) -> None:
    earlier = {"extends": {"federation": "x-00000000", "round": 1}}
    receive(store, FederationPlan.model_validate({**plan.model_dump(), **earlier}), 2, 1.0)
    learning = {"correspondence": {"rounds": 2}, "propagation": {"candidates": ["correspondence"]}}
    learns = FederationPlan.model_validate({**plan.model_dump(), **learning})
    receive(store, learns, 3, 1.0)
    assert kept(store) == []
    receive(store, learns, 4, 1.0)
    assert kept(store) == ["round-00003"]


def test_it_is_known_which_federation_goes_on_from_which(
    store: Store, plan: FederationPlan
) -> None:
    earlier = Earlier(federation=plan.federation, round=1)
    later = plan.model_copy(update={"name": "later", "extends": earlier})
    receive(store, plan, 2, 1.0)
    # Its first request: the models are still those of the earlier federation.
    receive(store, later, 2, 1.0)
    assert goes_on_from(store) == {later.federation: earlier}
    (note,) = store.folder.glob(f"{RECEIVED}/later-*")
    unfinished = note.with_name(f"{UNFINISHED}1{EARLIER}")
    unfinished.write_text("{")  # killed while it was written
    assert goes_on_from(store) == {later.federation: earlier}
    assert [one.path for one in find_leftovers(store)] == [unfinished]


def test_the_last_that_came_counts_even_if_it_is_of_an_earlier_round(
    store: Store, plan: FederationPlan
) -> None:
    receive(store, plan, 2, 2.0, "score")
    # The coordinator went back to an older checkpoint.
    receive(store, plan, 2, 1.5)
    assert newest(store) == (1, 1.5)
    receive(store, plan, 2, 1.75)  # and once more, with other weights for the same round
    assert newest(store) == (1, 1.75)


def test_the_same_request_changes_nothing(store: Store, plan: FederationPlan) -> None:
    receive(store, plan, 2, 1.0)
    (folder,) = store.folder.glob(f"{RECEIVED}/*/*")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    receive(store, plan, 2, 1.0)
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


def test_killed_before_the_old_ones_went_the_new_ones_count(
    store: Store, plan: FederationPlan, tmp_path: Path
) -> None:
    receive(store, plan, 2, 1.0)
    (old,) = store.folder.glob(f"{RECEIVED}/*/*")
    shutil.copytree(old, tmp_path / "old")
    receive(store, plan, 2, 2.0, "score")
    shutil.copytree(tmp_path / "old", old)  # as it lay there still, times and all
    assert newest(store) == (2, 2.0)
    receive(store, plan, 2, 2.0, "score")
    assert kept(store) == ["round-00002"]


def test_what_a_killed_process_left_unfinished_is_a_leftover(
    store: Store, plan: FederationPlan
) -> None:
    receive(store, plan, 2, 1.0)
    assert find_leftovers(store) == []
    half = store.folder / RECEIVED / plan.federation / ".unfinished-x"
    half.mkdir()
    (half / "models.safetensors").write_bytes(b"half")
    assert [(one.path, one.num_bytes) for one in find_leftovers(store)] == [(half, 4)]
    remove_leftovers(store)
    assert newest(store) == (1, 1.0)


def test_changed_models_are_refused(store: Store, plan: FederationPlan) -> None:
    receive(store, plan, 2, 1.0)
    (models,) = store.folder.glob(f"{RECEIVED}/*/*/models.safetensors")
    models.write_bytes(models.read_bytes()[:-1] + b"\0")
    with pytest.raises(ReleaseError, match="was changed: expected SHA-256"):
        load_newest(store)


def test_models_that_go_while_they_are_read_are_looked_for_again(
    store: Store, plan: FederationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    receive(store, plan, 2, 1.0)
    read = received_models.read_release

    def too_late(folder: Path) -> object:
        monkeypatch.setattr(received_models, "read_release", read)
        receive(store, plan, 2, 2.0, "score")
        return read(folder)

    monkeypatch.setattr(received_models, "read_release", too_late)
    assert newest(store) == (2, 2.0)


def test_of_several_federations_somebody_must_choose(store: Store, plan: FederationPlan) -> None:
    receive(store, plan, 2, 1.0)
    receive(store, plan.model_copy(update={"seed": 1}), 2, 3.0)  # the same one, goes on
    assert newest(store) == (1, 3.0)
    receive(store, plan.model_copy(update={"name": "other"}), 2, 2.0)
    with pytest.raises(
        SettingsError, match=r"different federations are here; choose:\n  --release"
    ):
        load_newest(store)


def test_a_full_disk_costs_newer_models_not_the_round(
    store: Store,
    plan: FederationPlan,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    receive(store, plan, 2, 1.0)
    full = os.statvfs_result((1, 1, 1, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with caplog.at_level(logging.WARNING):
        receive(store, plan, 2, 2.0, "score")
    assert "the models of round 2 are not kept: the disk" in caplog.text
    monkeypatch.undo()
    assert newest(store) == (1, 1.0)
    assert find_leftovers(store) == []
