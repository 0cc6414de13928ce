"""A disk that really is full: said in words, nothing lost, and work goes on when there is room."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from small_disks import fill, mounted_disk

from client.store.annotations import latest_annotations, save_annotation
from client.store.arrays import load_array, save_array
from client.store.audit import verify_audit, write_audit
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.orientation import OriginalGeometry
from client.store.rounds import HospitalState, commit_round, find_reply, latest_round
from client.store.scans import list_scans
from client.store.store import Store, create_store, open_store
from client.store.volume_files import write_volume_like
from common.errors import StoreError
from common.plan import Task
from common.scans import SliceAnnotation, SliceRef

SaveNifti = Callable[..., Path]
SHAPE = (48, 48, 48)
IDENTITY = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted_disk(tmp_path / "disk", 4 * 1024) as disk:
        yield disk


@pytest.fixture
def scans(tmp_path: Path, save_nifti: SaveNifti) -> Path:
    """Eight scans of 0.44 MB each: more than the small disk holds."""
    for number in range(8):
        image = np.random.default_rng(number).normal(size=SHAPE).astype(np.float32)
        save_nifti(tmp_path / "data" / "images" / f"{number}.nii", image)
    return tmp_path / "data"


def _unfinished(disk: Path) -> list[Path]:
    return list(disk.rglob(".unfinished-*"))


def test_ingest_stops_with_a_word_and_goes_on_with_room(
    small_disk: Path, scans: Path, task: Task
) -> None:
    store = create_store(small_disk / "store", "north")
    (small_disk / "ballast").write_bytes(bytes(10**6))
    dataset = find_cases(scans)
    with pytest.raises(StoreError, match=r"is full .* free some space"):
        ingest_cases(store, dataset, dataset.cases, task=task)
    kept = list_scans(open_store(store.folder))
    assert 0 < len(kept) < 8
    assert all(load_array(store, scan.image_key).shape == (1, *SHAPE) for scan in kept)
    assert _unfinished(small_disk) == []
    (small_disk / "ballast").unlink()
    report = ingest_cases(store, dataset, dataset.cases[: len(kept) + 1], task=task)
    assert (report.added, report.already_known, report.quarantined) == (1, len(kept), ())


def test_a_full_disk_is_no_fault_of_the_scan(small_disk: Path, scans: Path, task: Task) -> None:
    store = create_store(small_disk / "store", "north")
    filler = fill(small_disk)
    dataset = find_cases(scans)
    with pytest.raises(StoreError, match="is full"):
        ingest_cases(store, dataset, dataset.cases[:1], task=task)
    filler.unlink()
    with store.read() as connection:
        assert connection.execute("SELECT COUNT(*) FROM quarantine").fetchone()[0] == 0


def _annotate(store: Store, _: Path) -> None:
    mask = np.random.default_rng(9).integers(0, 2, SHAPE[:2]).astype(np.uint8)
    ref = SliceRef(list_scans(store)[0].scan_id, 2, 7)
    save_annotation(store, SliceAnnotation(ref, mask, (1,), "anna", 1.0))


def _audit(store: Store, _: Path) -> None:
    write_audit(store, "sending", {"text": "x" * 200_000})


def _commit(store: Store, _: Path) -> None:
    commit_round(store, HospitalState("fed", 2), "digest 2", b"reply" * 50_000)


def _save(store: Store, _: Path) -> None:
    save_array(store, np.ones(20_000))


def _write(suffix: str, _: Store, disk: Path) -> None:
    volume = np.random.default_rng(3).integers(0, 255, SHAPE).astype(np.uint8)
    original = OriginalGeometry(SHAPE, IDENTITY)
    write_volume_like(disk / f"result{suffix}", volume, original)


WRITES = [partial(_write, suffix) for suffix in (".nii", ".nii.gz", ".nrrd", ".mha")]


@pytest.mark.parametrize("act", [_annotate, _audit, _commit, _save, *WRITES])
def test_no_write_harms_what_is_there(
    small_disk: Path, scans: Path, task: Task, act: Callable[[Store, Path], None]
) -> None:
    store = create_store(small_disk / "store", "north")
    dataset = find_cases(scans)
    ingest_cases(store, dataset, dataset.cases[:1], task=task)
    commit_round(store, HospitalState("fed", 1), "digest 1", b"first")
    write_audit(store, "made", {})
    before = list_scans(store)
    filler = fill(small_disk)
    with pytest.raises(StoreError, match="is full"):
        act(store, small_disk)
    assert _unfinished(small_disk) == []
    filler.unlink()
    opened = open_store(store.folder)
    assert list_scans(opened) == before
    assert (latest_round(opened, "fed"), verify_audit(opened).number) == (1, 1)
    assert find_reply(opened, "fed", 1, "digest 1") == b"first"
    assert latest_annotations(opened, before[0].scan_id) == []
    act(opened, small_disk)


def test_a_store_is_not_made_on_a_full_disk(small_disk: Path) -> None:
    filler = fill(small_disk)
    with pytest.raises(StoreError, match=r"full|cannot be made"):
        create_store(small_disk / "store", "north")
    filler.unlink()
    assert create_store(small_disk / "store", "north").hospital == "north"
