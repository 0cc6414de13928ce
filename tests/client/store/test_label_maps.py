"""Label maps: the newest version comes back, with what it was made from."""

import sqlite3

import numpy as np
import pytest

from client.store.label_maps import label_map_origin, load_label_map, save_label_map
from client.store.store import Store
from common.errors import StoreError
from common.scans import LabelMap


def _label_map(seed: int) -> LabelMap:
    rng = np.random.default_rng(seed)
    soft = rng.dirichlet(np.ones(3), size=(5, 6, 4)).transpose(3, 0, 1, 2).astype(np.float32)
    weight = rng.uniform(size=(5, 6, 4)).astype(np.float32)
    return LabelMap((1, 2), soft, weight, weight > 0.8, (1,), "propagated")


def test_the_newest_comes_back_to_half_precision(store: Store, scan_ids: list[str]) -> None:
    versions = [save_label_map(store, scan_ids[0], _label_map(n), f"origin {n}") for n in (1, 2)]
    assert versions == [1, 2]
    found, wanted = load_label_map(store, scan_ids[0]), _label_map(2)
    np.testing.assert_allclose(found.soft, wanted.soft, atol=1e-3)
    np.testing.assert_allclose(found.weight, wanted.weight, atol=1e-3)
    np.testing.assert_array_equal(found.expert, wanted.expert)
    assert (found.classes, found.spread, found.source) == ((1, 2), (1,), "propagated")
    assert label_map_origin(store, scan_ids[0]) == "origin 2"


def test_a_scan_without_one_says_what_to_do(store: Store, scan_ids: list[str]) -> None:
    assert label_map_origin(store, scan_ids[1]) is None
    with pytest.raises(StoreError, match="no label map: annotate"):
        load_label_map(store, scan_ids[1])


def test_only_known_scans_have_one(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        save_label_map(store, "scan-x", _label_map(0), "origin")
