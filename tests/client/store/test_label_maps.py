"""Label maps: the newest that counts comes back, with what it was made from."""

import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from client.store.label_maps import (
    MadeFrom,
    adopt_label_map,
    drop_joined,
    find_label_map,
    load_label_map,
    save_label_map,
)
from client.store.store import Store
from common.errors import StoreError
from common.scans import LabelMap


def _label_map(seed: int) -> LabelMap:
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.ones(3), size=(5, 6, 4)).transpose(3, 0, 1, 2).astype(np.float32)
    weight = rng.uniform(size=(5, 6, 4)).astype(np.float32)
    return LabelMap((1, 2), soft, weight, weight > 0.8, (1,), "propagated")


def test_the_newest_comes_back_to_half_precision(store: Store, scan_ids: list[str]) -> None:
    versions = [
        save_label_map(store, scan_ids[0], _label_map(n), MadeFrom(f"origin {n}", "ours"))
        for n in (1, 2)
    ]
    assert versions == [1, 2]
    found, wanted = load_label_map(store, scan_ids[0], "ours"), _label_map(2)
    np.testing.assert_allclose(found.soft, wanted.soft, atol=1e-3)
    np.testing.assert_allclose(found.weight, wanted.weight, atol=1e-3)
    np.testing.assert_array_equal(found.expert, wanted.expert)
    assert (found.classes, found.spread, found.source) == ((1, 2), (1,), "propagated")
    assert find_label_map(store, scan_ids[0], "ours") == MadeFrom("origin 2", "ours")


def test_a_scan_without_one_says_what_to_do(store: Store, scan_ids: list[str]) -> None:
    assert find_label_map(store, scan_ids[1], "ours") is None
    with pytest.raises(StoreError, match="no label map: annotate"):
        load_label_map(store, scan_ids[1], "ours")


def test_only_known_scans_have_one(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        save_label_map(store, "scan-x", _label_map(0), MadeFrom("origin", "ours"))


# With a segmenter's part --------------------------------------------------------------------------


def _save(store: Store, scan_id: str, seed: int, federation: str, number: int) -> MadeFrom:
    made_from = MadeFrom(f"origin {seed}", federation, number, 0.125 * number)
    labels = replace(_label_map(seed), source="pseudo" if number else "propagated")
    save_label_map(store, scan_id, labels, made_from)
    return made_from


def test_what_it_was_made_from_comes_back(store: Store, scan_ids: list[str]) -> None:
    made_from = _save(store, scan_ids[0], 1, "ours", 3)
    assert find_label_map(store, scan_ids[0], "ours") == made_from
    assert load_label_map(store, scan_ids[0], "ours").source == "pseudo"


def test_another_federations_do_not_count(store: Store, scan_ids: list[str]) -> None:
    scan_id = scan_ids[0]
    made = {
        "ours": _save(store, scan_id, 2, "ours", 3),
        "theirs": _save(store, scan_id, 3, "theirs", 0),
    }
    for seed, (federation, made_from) in enumerate(made.items(), start=2):
        assert find_label_map(store, scan_id, federation) == made_from
        found = load_label_map(store, scan_id, federation)
        np.testing.assert_allclose(found.weight, _label_map(seed).weight, atol=1e-3)


def test_a_scan_with_only_another_federations_has_none(store: Store, scan_ids: list[str]) -> None:
    _save(store, scan_ids[0], 1, "theirs", 1)
    assert find_label_map(store, scan_ids[0], "ours") is None
    with pytest.raises(StoreError, match="no label map"):
        load_label_map(store, scan_ids[0], "ours")


def test_what_was_spread_can_be_had_without_the_segmenters_part(
    store: Store, scan_ids: list[str]
) -> None:
    alone = _save(store, scan_ids[0], 1, "ours", 0)
    joined = _save(store, scan_ids[0], 2, "ours", 4)
    assert find_label_map(store, scan_ids[0], "ours") == joined
    assert find_label_map(store, scan_ids[0], "ours", joined=False) == alone
    found = load_label_map(store, scan_ids[0], "ours", joined=False)
    np.testing.assert_allclose(found.weight, _label_map(1).weight, atol=1e-3)


def test_another_federations_is_adopted_if_it_was_spread_from_the_same(
    store: Store, scan_ids: list[str]
) -> None:
    scan_id, other, _ = scan_ids
    _save(store, scan_id, 1, "theirs", 0)
    _save(store, scan_id, 2, "theirs", 3)
    _save(store, other, 3, "theirs", 0)
    assert not adopt_label_map(store, scan_id, MadeFrom("origin 2", "ours")), "a segmenter's part"
    assert not adopt_label_map(store, scan_id, MadeFrom("origin 3", "ours")), "another scan's"
    assert find_label_map(store, scan_id, "ours") is None
    assert adopt_label_map(store, scan_id, MadeFrom("origin 1", "ours"))
    assert find_label_map(store, scan_id, "ours") == MadeFrom("origin 1", "ours")
    found = load_label_map(store, scan_id, "ours")
    np.testing.assert_allclose(found.weight, _label_map(1).weight, atol=1e-3)
    assert find_label_map(store, scan_id, "theirs") == MadeFrom("origin 2", "theirs", 3, 0.375)


def test_newly_spread_slices_come_before_what_a_segmenter_had_made(
    store: Store, scan_ids: list[str]
) -> None:
    _save(store, scan_ids[0], 1, "ours", 3)
    spread_again = _save(store, scan_ids[0], 2, "ours", 0)
    assert find_label_map(store, scan_ids[0], "ours") == spread_again


def test_those_from_a_round_on_are_dropped_and_no_others(store: Store, scan_ids: list[str]) -> None:
    scan_id, other_scan, _ = scan_ids
    _save(store, scan_id, 1, "ours", 0)
    second = _save(store, scan_id, 2, "ours", 2)
    for seed, number in ((3, 3), (4, 4)):
        _save(store, scan_id, seed, "ours", number)
    theirs = _save(store, scan_id, 5, "theirs", 9)
    _save(store, other_scan, 6, "ours", 3)
    drop_joined(store, "ours", 3)
    assert find_label_map(store, scan_id, "ours") == second
    assert find_label_map(store, scan_id, "theirs") == theirs
    assert find_label_map(store, other_scan, "ours") is None
    drop_joined(store, "ours", 1)
    assert find_label_map(store, scan_id, "ours") == MadeFrom("origin 1", "ours")
    # What comes next gets a version of its own all the same.
    newest = _save(store, scan_id, 7, "ours", 1)
    assert find_label_map(store, scan_id, "ours") == newest
