"""Cases come in once, bad ones are set aside, and being killed changes nothing."""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from client.store import ingest as ingest_module
from client.store.annotations import latest_annotations, save_annotation
from client.store.arrays import load_array
from client.store.atomic_files import UNFINISHED
from client.store.ingest import IngestReport, ingest_cases
from client.store.layouts import find_cases
from client.store.normalise import normalise
from client.store.scans import count_quarantined, list_scans
from client.store.store import Store, create_store, open_store
from common.errors import StoreError
from common.plan import Task
from common.scans import SliceAnnotation, SliceRef

SaveNifti = Callable[..., Path]
ROOT = Path(__file__).parents[3]
REAL = ROOT.parent / "shared" / "data"


def _ingest(store: Store, folder: Path, task: Task) -> IngestReport:
    dataset = find_cases(folder)
    return ingest_cases(store, dataset, dataset.cases, task=task)


def _rewrite(path: Path, save_nifti: SaveNifti, change: Callable[[np.ndarray], np.ndarray]) -> None:
    image = nib.load(path)
    array = np.asarray(image.dataobj)
    save_nifti(path, change(array).astype(array.dtype), image.affine)


def test_cases_come_in_normalised_with_their_labels(
    store: Store, plain_folder: Path, task: Task
) -> None:
    seen: list[str] = []
    dataset = find_cases(plain_folder)
    report = ingest_cases(store, dataset, dataset.cases, task=task, on_case=seen.append)
    assert (report.added, report.already_known, report.quarantined) == (3, 0, ())
    assert seen == ["case0", "case1", "case2"]
    (first,) = [scan for scan in list_scans(store) if scan.case == "case0"]
    raw = np.asarray(nib.load(plain_folder / "images" / "case0.nii.gz").dataobj)[None]
    label = np.asarray(nib.load(plain_folder / "labels" / "case0.nii.gz").dataobj)
    np.testing.assert_array_equal(
        load_array(store, first.image_key), normalise(raw.astype(np.float32), "MR", None)
    )
    assert first.reference_key is not None
    np.testing.assert_array_equal(load_array(store, first.reference_key), label)
    assert first.label_voxels == {1: int((label == 1).sum()), 2: int((label == 2).sum())}


def test_the_label_table_counts_all_values(store: Store, plain_folder: Path, task: Task) -> None:
    (plain_folder / "labels.json").write_text('{"1": "organ", "2": "lobe", "3": "never seen"}')
    report = _ingest(store, plain_folder, task)
    volumes = [nib.load(path).get_fdata() for path in (plain_folder / "labels").iterdir()]
    voxels = [int(sum((volume == value).sum() for volume in volumes)) for value in (1, 2, 3)]
    found = [(row.value, row.name, row.scans, row.voxels) for row in report.labels]
    assert found == [
        (1, "organ", 3, voxels[0]), (2, "lobe", 3, voxels[1]), (3, "never seen", 0, 0)
    ]  # fmt: skip


def test_a_second_ingest_finds_everything_known(
    store: Store, plain_folder: Path, task: Task
) -> None:
    _ingest(store, plain_folder, task)
    before = list_scans(store)
    report = _ingest(store, plain_folder, task)
    assert (report.added, report.already_known) == (0, 3)
    assert list_scans(store) == before


@pytest.mark.parametrize("signs", [(-1, -1, 1), (1, -1, 1), (-1, 1, -1)])
def test_a_copy_in_another_orientation_is_known(
    store: Store, plain_folder: Path, task: Task, save_nifti: SaveNifti, signs: tuple[int, ...]
) -> None:
    _ingest(store, plain_folder, task)
    path = plain_folder / "images" / "case0.nii.gz"
    turned = nib.load(path).as_reoriented([[axis, sign] for axis, sign in enumerate(signs)])
    shutil.rmtree(plain_folder / "labels")
    for old in (plain_folder / "images").iterdir():
        old.unlink()
    # A tiny rotation, as files converted back and forth have it, must not matter.
    affine = turned.affine - 1e-9
    affine[3] = [0, 0, 0, 1]
    save_nifti(plain_folder / "images" / "copy.nii", np.asarray(turned.dataobj), affine)
    report = _ingest(store, plain_folder, task)
    assert (report.added, report.already_known, report.quarantined) == (0, 1, ())


def test_a_label_that_comes_later_is_added_and_annotations_stay(
    store: Store, plain_folder: Path, task: Task
) -> None:
    (plain_folder / "labels").rename(plain_folder / "later")
    _ingest(store, plain_folder, task)
    without = list_scans(store)
    assert [scan.reference_key for scan in without] == [None] * 3
    ref = SliceRef(without[0].scan_id, 2, 1)
    save_annotation(store, SliceAnnotation(ref, np.ones((5, 6), np.uint8), (1,), "a", 2.0))
    (plain_folder / "later").rename(plain_folder / "labels")
    assert _ingest(store, plain_folder, task).already_known == 3
    assert all(scan.reference_key for scan in list_scans(store))
    assert all(scan.label_voxels for scan in list_scans(store))
    assert len(latest_annotations(store, without[0].scan_id)) == 1


def test_a_bad_case_is_set_aside_until_it_is_good(
    store: Store, plain_folder: Path, task: Task
) -> None:
    path = plain_folder / "images" / "case1.nii.gz"
    good = path.read_bytes()
    path.write_bytes(good[:60])
    report = _ingest(store, plain_folder, task)
    assert report.added == 2
    ((name, reason),) = report.quarantined
    assert name == "case1"
    assert "cannot be read" in reason
    assert count_quarantined(store) == count_quarantined(store, task.name) == 1
    assert count_quarantined(store, "another") == 0
    path.write_bytes(good)
    assert _ingest(store, plain_folder, task).added == 1
    assert count_quarantined(store) == 0


def test_a_case_without_a_file_is_set_aside(store: Store, plain_folder: Path, task: Task) -> None:
    dataset = find_cases(plain_folder)
    (plain_folder / "images" / "case2.nii.gz").unlink()
    report = ingest_cases(store, dataset, dataset.cases, task=task)
    assert report.added == 2
    assert report.quarantined == (("case2", "the file case2.nii.gz is not there"),)


def test_a_value_without_a_name_is_set_aside(
    store: Store, plain_folder: Path, task: Task, save_nifti: SaveNifti
) -> None:
    (plain_folder / "labels.json").write_text('{"1": "organ", "2": "lobe"}')
    _rewrite(plain_folder / "labels" / "case0.nii.gz", save_nifti, lambda a: np.where(a == 2, 7, a))
    report = _ingest(store, plain_folder, task)
    assert report.added == 2
    assert "[7]" in report.quarantined[0][1]
    assert "lobe" in report.quarantined[0][1]


def test_an_unexpected_error_of_a_reader_sets_the_case_aside(
    store: Store, plain_folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> object:
        raise KeyError(path.name)

    monkeypatch.setattr(nib, "load", fail)
    assert len(_ingest(store, plain_folder, task).quarantined) == 3


def test_a_full_disk_stops_cleanly_and_the_rest_comes_in_later(
    store: Store, plain_folder: Path, task: Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, calls = ingest_module.save_array, []

    def fill(target: Store, array: np.ndarray) -> str:
        calls.append(array)
        if len(calls) > 3:
            raise StoreError("the disk is full")
        return kept(target, array)

    monkeypatch.setattr(ingest_module, "save_array", fill)
    with pytest.raises(StoreError, match="disk is full"):
        _ingest(store, plain_folder, task)
    assert len(list_scans(open_store(store.folder))) == 1
    monkeypatch.undo()
    report = _ingest(store, plain_folder, task)
    assert (report.added, report.already_known) == (2, 1)


KILLED = """
import sys
from pathlib import Path
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.store import open_store
from common.plan import Task

task = Task(name="first", classes=("organ",), modality="MR", plane="axial", rounds=1)
dataset = find_cases(Path(sys.argv[2]))
print("started", flush=True)
ingest_cases(open_store(Path(sys.argv[1])), dataset, dataset.cases, task=task)
"""


def _finished_arrays(store: Store) -> set[str]:
    names = {path.name for path in store.folder.rglob("*.npy")}
    return {name for name in names if not name.startswith(UNFINISHED)}


def test_being_killed_at_any_moment_changes_nothing(
    tmp_path: Path, task: Task, save_nifti: SaveNifti
) -> None:
    folder, rng = tmp_path / "many", np.random.default_rng(0)
    for number in range(12):
        image = rng.normal(size=(40, 40, 40)).astype(np.float32)
        save_nifti(folder / "images" / f"c{number:02d}.nii", image)
        save_nifti(folder / "labels" / f"c{number:02d}.nii", (image > 1).astype(np.uint8))
    whole = create_store(tmp_path / "whole", "north")
    started = time.perf_counter()
    _ingest(whole, folder, task)
    took_s = time.perf_counter() - started
    killed = create_store(tmp_path / "killed", "north")
    moments = random.Random(0)
    progress = [0]
    for _ in range(6):
        command = [sys.executable, "-c", KILLED, str(killed.folder), str(folder)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, took_s / 3))
            process.kill()
        assert open_store(killed.folder) == killed
        progress.append(len(list_scans(killed)))
    assert progress == sorted(progress)
    report = _ingest(killed, folder, task)
    assert (report.added, report.already_known) == (12 - progress[-1], progress[-1])
    assert list_scans(killed) == list_scans(whole)
    assert count_quarantined(killed) == 0
    for scan in list_scans(killed):
        for key in (scan.image_key, scan.reference_key):
            assert key is not None
            np.testing.assert_array_equal(load_array(killed, key), load_array(whole, key))
    assert _finished_arrays(killed) == _finished_arrays(whole)


@pytest.mark.real_scans
@pytest.mark.parametrize(
    ("name", "modality", "num_cases"),
    [
        ("hippocampus", "MR", 6),
        ("cardiac", "MR", 3),
        ("mouse_brain", "MR", 2),
        ("spinal_cord", "MR", 2),
        ("ct_examples", "CT", 3),
    ],
)
def test_real_scans_come_in(
    store: Store, task: Task, name: str, modality: str, num_cases: int
) -> None:
    if not (REAL / name).is_dir():
        pytest.skip(f"no real scans called {name} beside the project")
    dataset = find_cases(REAL / name)
    window = (-200.0, 300.0) if modality == "CT" else None
    wanted = task.model_copy(update={"modality": modality, "window_hu": window})
    cases = dataset.cases[:num_cases]
    report = ingest_cases(store, dataset, cases, task=wanted)
    assert (report.added, report.quarantined) == (num_cases, ())
    assert all(scan.reference_key for scan in list_scans(store))
    renamed = [replace(case, name=f"again {case.name}") for case in cases]
    assert ingest_cases(store, dataset, renamed, task=wanted).already_known == num_cases
