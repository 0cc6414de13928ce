"""The hospital's own correspondence networks: kept by settings, the newest last."""

import numpy as np

from client.store.correspondence import Learned, load_learned, save_learned
from client.store.store import Store, open_store


def _learned(part: int, *scans: str) -> Learned:
    weights = np.random.default_rng(part).normal(size=7).astype(np.float32)
    return Learned(part, scans, weights)


def _names(found: list[Learned]) -> list[tuple[int, tuple[str, ...]]]:
    return [(one.part, one.scans) for one in found]


def test_parts_come_back_as_they_were_kept(store: Store) -> None:
    assert load_learned(store, "settings") == []
    for part in (1, 2):
        save_learned(store, "settings", _learned(part, "a", "b"))
    found = load_learned(open_store(store.folder), "settings")
    assert _names(found) == [(1, ("a", "b")), (2, ("a", "b"))]
    for one in found:
        np.testing.assert_array_equal(one.weights, _learned(one.part).weights)
        assert one.weights.dtype == np.float32
        assert one.weights.flags.writeable


def test_other_settings_have_networks_of_their_own(store: Store) -> None:
    save_learned(store, "one", _learned(1, "a"))
    save_learned(store, "other", _learned(2, "b"))
    assert _names(load_learned(store, "one")) == [(1, ("a",))]
    assert _names(load_learned(store, "other")) == [(2, ("b",))]


def test_the_newest_is_last_whatever_its_part(store: Store) -> None:
    save_learned(store, "settings", _learned(2, "a"))
    save_learned(store, "settings", _learned(1, "a", "b"))
    assert _names(load_learned(store, "settings")) == [(2, ("a",)), (1, ("a", "b"))]
    # Learned once more: it takes the place of the one before, and is the newest.
    save_learned(store, "settings", Learned(2, ("a",), np.zeros(7, np.float32)))
    found = load_learned(store, "settings")
    assert _names(found) == [(1, ("a", "b")), (2, ("a",))]
    assert not found[-1].weights.any()
