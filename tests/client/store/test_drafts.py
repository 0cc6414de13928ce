"""Strokes: each is kept, nobody's are mixed, and a submitted slice replaces its drafts."""

import sqlite3
import threading
from dataclasses import replace

import numpy as np
import pytest

from client.store import drafts
from client.store.annotations import all_versions, latest_annotations
from client.store.drafts import (
    OutdatedDraftError,
    drop_draft,
    list_drafts,
    load_draft,
    save_draft,
    submit_slice,
)
from client.store.store import Store
from common.errors import StoreError
from common.scans import SliceAnnotation, SliceRef


def _mask(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, size=(5, 6)).astype(np.uint8)


@pytest.fixture
def ref(scan_ids: list[str]) -> SliceRef:
    """A slice of 5 x 6 pixels of the first scan."""
    return SliceRef(scan_ids[0], 2, 1)


def _save(store: Store, ref: SliceRef, seed: int, continues: int, who: str = "anna") -> int:
    return save_draft(
        store, ref, who, _mask(seed), continues=(continues,), seconds_spent=2.0 * seed
    )


def _newest(store: Store, ref: SliceRef, who: str = "anna") -> tuple[int, float, np.ndarray]:
    found = load_draft(store, ref, who)
    assert found is not None
    return found[0].version, found[0].seconds_spent, found[1]


def _annotation(ref: SliceRef, mask: np.ndarray, who: str = "anna") -> SliceAnnotation:
    return SliceAnnotation(ref, mask, (1, 2), who, 30.0)


def _rows(store: Store) -> int:
    with store.read() as connection:
        return int(connection.execute("SELECT COUNT(*) FROM drafts").fetchone()[0])


def test_every_stroke_is_a_version_and_the_newest_comes_back(store: Store, ref: SliceRef) -> None:
    assert load_draft(store, ref, "anna") is None
    assert [_save(store, ref, seed, seed - 1) for seed in (1, 2, 3)] == [1, 2, 3]
    version, seconds, mask = _newest(store, ref)
    assert (version, seconds) == (3, 6.0)
    np.testing.assert_array_equal(mask, _mask(3))
    assert _rows(store) == 3, "the strokes before are kept"


@pytest.mark.parametrize("continues", [0, 1, 3, 7])
def test_a_stroke_on_another_version_than_the_newest_is_refused(
    store: Store, ref: SliceRef, continues: int
) -> None:
    for seed in (1, 2):
        _save(store, ref, seed, seed - 1)
    with pytest.raises(
        OutdatedDraftError, match=f"version 2, the newest.*version {continues}"
    ) as e:
        _save(store, ref, 9, continues)
    assert e.value.version == 2
    np.testing.assert_array_equal(_newest(store, ref)[2], _mask(2))


@pytest.mark.parametrize("arrived", [False, True])
def test_the_last_stroke_of_a_closing_page_is_kept_whether_the_one_before_it_arrived_or_not(
    store: Store, ref: SliceRef, arrived: bool
) -> None:
    _save(store, ref, 1, 0)
    if arrived:
        _save(store, ref, 2, 1)
    last = save_draft(store, ref, "anna", _mask(3), continues=(1, 2), seconds_spent=1.0)
    assert last == (3 if arrived else 2)
    assert np.array_equal(_newest(store, ref)[2], _mask(3))
    with pytest.raises(OutdatedDraftError, match=f"expected a change of version {last}"):
        _save(store, ref, 2, 1)  # the one before it, late


def test_of_two_strokes_at_once_on_one_version_one_is_kept(store: Store, ref: SliceRef) -> None:
    outcomes: list[object] = []

    def save(seed: int) -> None:
        try:
            outcomes.append(_save(store, ref, seed, 0))
        except OutdatedDraftError as error:
            outcomes.append(error)

    threads = [threading.Thread(target=save, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count(1) == 1
    assert sum(isinstance(one, OutdatedDraftError) for one in outcomes) == 5
    assert _rows(store) == 1


def test_two_annotators_do_not_see_each_others_drafts(store: Store, ref: SliceRef) -> None:
    _save(store, ref, 1, 0, "anna")
    assert load_draft(store, ref, "ben") is None
    assert _save(store, ref, 2, 0, "ben") == 1
    np.testing.assert_array_equal(_newest(store, ref, "anna")[2], _mask(1))
    drop_draft(store, ref, "anna")
    assert load_draft(store, ref, "anna") is None
    np.testing.assert_array_equal(_newest(store, ref, "ben")[2], _mask(2))


def test_the_list_has_the_newest_of_each_slice(store: Store, ref: SliceRef) -> None:
    other = replace(ref, index=3)
    for seed in (1, 2):
        _save(store, ref, seed, seed - 1)
    _save(store, other, 4, 0)
    _save(store, other, 5, 0, "ben")
    found = list_drafts(store, ref.scan_id, "anna")
    assert [(one.ref, one.version, one.seconds_spent) for one in found] == [
        (ref, 2, 4.0),
        (other, 1, 8.0),
    ]


def test_submitting_makes_an_annotation_and_forgets_the_drafts(store: Store, ref: SliceRef) -> None:
    for seed in (1, 2):
        _save(store, ref, seed, seed - 1)
    _save(store, ref, 3, 0, "ben")
    assert submit_slice(store, _annotation(ref, _mask(2)), 2) == 1
    (found,) = latest_annotations(store, ref.scan_id)
    np.testing.assert_array_equal(found.mask, _mask(2))
    assert (found.annotator, found.seconds_spent, found.looked_for) == ("anna", 30.0, (1, 2))
    assert load_draft(store, ref, "anna") is None
    np.testing.assert_array_equal(_newest(store, ref, "ben")[2], _mask(3))
    # Painted again from the start: a new version of the same slice.
    _save(store, ref, 4, 0)
    assert submit_slice(store, _annotation(ref, _mask(4)), 1) == 2
    assert len(all_versions(store, ref)) == 2


def test_an_empty_slice_needs_no_draft(store: Store, ref: SliceRef) -> None:
    empty = np.zeros((5, 6), dtype=np.uint8)
    assert submit_slice(store, _annotation(ref, empty), 0) == 1
    _save(store, ref, 1, 0)
    with pytest.raises(OutdatedDraftError, match="version 1, the newest"):
        submit_slice(store, _annotation(ref, empty), 0)
    assert _rows(store) == 1


@pytest.mark.parametrize(("version", "seed"), [(1, 1), (2, 1), (3, 2)])
def test_what_is_submitted_must_be_the_newest_draft(
    store: Store, ref: SliceRef, version: int, seed: int
) -> None:
    for stroke in (1, 2):
        _save(store, ref, stroke, stroke - 1)
    with pytest.raises(OutdatedDraftError):
        submit_slice(store, _annotation(ref, _mask(seed)), version)
    assert latest_annotations(store, ref.scan_id) == []
    assert _rows(store) == 2


def test_submitting_is_one_transaction(
    store: Store, ref: SliceRef, monkeypatch: pytest.MonkeyPatch
) -> None:
    _save(store, ref, 1, 0)

    def breaks(*_: object) -> None:
        raise sqlite3.OperationalError("the power went off")

    monkeypatch.setattr(drafts, "_drop", breaks)
    with pytest.raises(StoreError, match="the power went off"):
        submit_slice(store, _annotation(ref, _mask(1)), 1)
    assert latest_annotations(store, ref.scan_id) == [], "not half of it"
    np.testing.assert_array_equal(_newest(store, ref)[2], _mask(1))


def test_a_mask_that_does_not_fit_is_not_submitted(store: Store, ref: SliceRef) -> None:
    with pytest.raises(StoreError, match=r"has \(5, 6\) pixels, the mask \(4, 6\)"):
        submit_slice(store, _annotation(ref, np.ones((4, 6), np.uint8)), 0)
    with pytest.raises(StoreError, match=r"labels \[7\] that were not looked for"):
        submit_slice(store, _annotation(ref, np.full((5, 6), 7, np.uint8)), 0)


def test_a_draft_of_an_unknown_scan_is_refused(store: Store, scan_ids: list[str]) -> None:
    assert scan_ids
    with pytest.raises(sqlite3.IntegrityError, match="FOREIGN KEY"):
        _save(store, SliceRef("scan-0000000000000000", 2, 0), 1, 0)
