"""DICOM through the whole ingest: what comes in, what is set aside, and where no name may be."""

import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import tomli_w
from small_dicom import PATIENT, rewrite, write_series

from client.store.identities import find_by_patient, list_identities
from client.store.ingest import IngestReport, ingest_cases
from client.store.layouts import find_cases
from client.store.scans import count_quarantined, list_scans
from client.store.store import Store, create_store, open_store
from common.plan import FederationPlan, Task

ROOT = Path(__file__).parents[3]


def _stored(seed: int, shape: tuple[int, int, int] = (5, 8, 7)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3000, size=shape).astype(np.int16)


def _ingest(store: Store, folder: Path, task: Task) -> IngestReport:
    dataset = find_cases(folder)
    return ingest_cases(store, dataset, dataset.cases, task=task)


def _series_of(name: str) -> str:
    return name.partition("-")[2]


def test_good_series_come_in_and_bad_ones_are_set_aside(
    store: Store, tmp_path: Path, task: Task
) -> None:
    tree = tmp_path / "disc"
    write_series(tree / "a", _stored(0), shuffled_by=1)
    write_series(tree / "b", _stored(1), modality="CT")
    gone = write_series(tree / "c", _stored(2), spacing_mm=(2.5, 1, 1), origin_mm=(0, 0, 30))[3]
    kept = gone.read_bytes()
    gone.unlink()
    report = _ingest(store, tree, task)
    assert (report.added, report.already_known) == (1, 0)
    reasons = sorted(reason for _, reason in report.quarantined)
    assert reasons == [
        "expected a slice at z = 37.5 mm between 35.0 and 40.0; positions found: 30.0, 32.5, 35.0, "
        "40.0 mm (4 in all)",
        "the series is CT, the task 'first' takes MR",
    ]
    gone.write_bytes(kept)
    report = _ingest(store, tree, task)
    assert (report.added, report.already_known, len(report.quarantined)) == (1, 1, 1)
    assert count_quarantined(store) == 1


def test_a_series_for_a_ct_task_must_be_ct(store: Store, tmp_path: Path, task: Task) -> None:
    values = {**task.model_dump(), "modality": "CT", "window_hu": [-100.0, 200.0]}
    write_series(tmp_path / "disc", _stored(0))
    report = _ingest(store, tmp_path / "disc", Task.model_validate(values))
    assert [reason for _, reason in report.quarantined] == [
        "the series is MR, the task 'first' takes CT"
    ]


def test_the_same_scan_is_known_as_nifti_and_as_dicom(
    store: Store, tmp_path: Path, task: Task
) -> None:
    stored = _stored(0)
    origin_mm, spacing_mm = (-12.5, 30.0, 7.25), (2.5, 0.5, 0.75)
    affine = np.diag([-0.75, -0.5, 2.5, 1])
    affine[:3, 3] = [12.5, -30.0, 7.25]
    (tmp_path / "plain" / "images").mkdir(parents=True)
    image = nib.Nifti1Image(stored.transpose(2, 1, 0), affine)
    nib.save(image, tmp_path / "plain" / "images" / "a.nii.gz")
    assert _ingest(store, tmp_path / "plain", task).added == 1
    assert list_identities(store) == {}
    write_series(tmp_path / "disc", stored, spacing_mm=spacing_mm, origin_mm=origin_mm)
    report = _ingest(store, tmp_path / "disc", task)
    assert (report.added, report.already_known, report.quarantined) == (0, 1, ())
    # Whose it is was not known before, and is now.
    (scan,) = list_scans(store)
    assert scan.case == "a"
    assert find_by_patient(store, PATIENT["PatientID"]) == [scan.scan_id]


def test_a_double_slice_is_noted(store: Store, tmp_path: Path, task: Task) -> None:
    paths = write_series(tmp_path / "disc", _stored(0))
    (tmp_path / "disc" / "copy").write_bytes(paths[2].read_bytes())
    report = _ingest(store, tmp_path / "disc", task)
    ((_, note),) = report.notes
    assert (report.added, report.quarantined) == (1, ())
    assert note == "slices there twice, pixel for pixel, and read once: 1"


def test_a_repaired_file_leaves_the_quarantine(store: Store, tmp_path: Path, task: Task) -> None:
    paths = write_series(tmp_path / "disc", _stored(0), uid="1.2.3")
    others = write_series(tmp_path / "other", _stored(1), uid="1.2.4")
    for number, path in enumerate(others):
        path.rename(tmp_path / "disc" / f"other{number}")
    good = paths[1].read_bytes()
    paths[1].write_bytes(good[:150])
    report = _ingest(store, tmp_path / "disc", task)
    assert report.added == 1
    assert sorted(name.partition("-")[0] for name, _ in report.quarantined) == ["file", "series"]
    paths[1].write_bytes(good)
    assert _ingest(store, tmp_path / "disc", task).added == 1
    assert count_quarantined(store) == 0


def test_a_slice_that_lay_wrong_leaves_the_quarantine_when_it_is_repaired(
    store: Store, tmp_path: Path, task: Task
) -> None:
    paths = write_series(tmp_path / "disc", _stored(0))
    good = paths[2].read_bytes()
    rewrite(paths[2], lambda d: setattr(d, "ImageOrientationPatient", [0, 1, 0, 0, 0, 1]))
    report = _ingest(store, tmp_path / "disc", task)
    assert [name[-2:] for name, _ in report.quarantined] == ["-1", "-2"]
    paths[2].write_bytes(good)
    assert _ingest(store, tmp_path / "disc", task).added == 1
    assert count_quarantined(store) == 0


def test_another_patients_number_on_the_same_voxels_is_set_aside(
    store: Store, tmp_path: Path, task: Task
) -> None:
    paths = write_series(tmp_path / "disc", _stored(0))
    _ingest(store, tmp_path / "disc", task)
    for path in paths:
        rewrite(path, lambda dataset: setattr(dataset, "PatientID", "another"))
    report = _ingest(store, tmp_path / "disc", task)
    ((_, reason),) = report.quarantined
    assert "registered already as another patient's" in reason
    assert len(find_by_patient(store, PATIENT["PatientID"])) == 1


def _texts(store: Store) -> Iterator[tuple[str, str]]:
    """All that is in the catalog but the identities, by table."""
    with store.read() as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        for (table,) in tables.fetchall():
            if table != "identities":
                for row in connection.execute(f"SELECT * FROM {table}"):
                    yield table, " ".join(str(value) for value in tuple(row))


def _spoilt_disc(tree: Path) -> None:
    """One good series; in all others a name or number could slip into a message."""
    name = PATIENT["PatientName"]
    folder = tree / name
    write_series(folder / "good", _stored(0), uid=f"{GOOD}.1", shuffled_by=0)
    write_series(folder / "gap", _stored(1), uid=f"{BAD}.1")[2].unlink()
    write_series(folder / "ct", _stored(2), uid=f"{BAD}.2", modality="CT")
    # Names in places where other things should be,
    spoilt: list[tuple[str, object]] = [
        ("Modality", name), ("SOPClassUID", BAD), ("ImageType", [name]),
        ("PatientID", "MRN-4711-0815-b"), ("PhotometricInterpretation", name),
    ]  # fmt: skip
    for number, (keyword, value) in enumerate(spoilt):
        path = write_series(folder / keyword, _stored(number), uid=f"{BAD}.3{number}")[1]
        rewrite(path, lambda dataset, k=keyword, v=value: dataset.update({k: v}))
    # and damage that pydicom would tell of with the values that it met.
    for number, tag in enumerate((b"\x28\x00\x10\x00US", b"\x28\x00\x30\x00DS")):
        path = write_series(folder / f"x{number}", _stored(8), uid=f"{BAD}.4{number}")[1]
        data = path.read_bytes()
        at = data.index(tag) + 8
        path.write_bytes(data[:at] + name.encode()[: data[at - 2]] + data[at + data[at - 2] :])
    torn = write_series(folder / "torn", _stored(3), uid=f"{BAD}.5")[0]
    torn.write_bytes(torn.read_bytes()[:400])
    (folder / f"{name} letter").write_bytes(bytes(128) + b"DICM" + name.encode() * 9)


def _typed(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "oneslice", "hospital", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout + done.stderr


GOOD, BAD = "1.2.826.777", "1.2.826.888"


def test_names_are_in_the_table_of_identities_and_nowhere_else(
    plan: FederationPlan, tmp_path: Path
) -> None:
    _spoilt_disc(tmp_path / "disc")
    settings, folder = tmp_path / "plan.toml", tmp_path / "store"
    settings.write_text(tomli_w.dumps(plan.model_dump(exclude_none=True)))
    _typed("init", "--store", folder, "--name", "north")
    words = ("--store", folder, "--plan", settings, "--task", "first")
    printed = _typed("ingest", tmp_path / "disc", *words) + _typed("status", "--store", folder)
    store = open_store(folder)
    identities = list_identities(store)
    assert list(identities) == [scan.scan_id for scan in list_scans(store)]
    (identity,) = [one for one in identities.values() if one.details["series"] == f"{GOOD}.1"]
    assert (identity.patient, identity.details["name"]) == (
        PATIENT["PatientID"], PATIENT["PatientName"],
    )  # fmt: skip
    assert set(identity.details) == {
        "name", "birth_date", "sex", "study", "study_date", "series", "series_description",
    }  # fmt: skip
    # A wrong kind of object or image harms nobody: only these two come in besides.
    assert (len(identities), count_quarantined(store)) == (3, 9)
    assert printed.count("series-") >= 8
    kept = [path for path in folder.rglob("*") if path.is_file()]
    others = [path for path in kept if not path.name.startswith("catalog.sqlite")]
    for secret in {*PATIENT.values(), GOOD, BAD, "mustermann"} - {"F"}:
        assert secret.lower() not in printed.lower()
        for table, text in _texts(store):
            assert secret.lower() not in text.lower(), table
        for path in others:
            assert secret.encode() not in path.read_bytes(), path.name


KILLED = """
import sys
from pathlib import Path
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.store import open_store
from common.plan import Task

task = Task(name="first", classes=("organ",), modality="MR", plane="axial", rounds=1)
store = open_store(Path(sys.argv[1]))
dataset = find_cases(Path(sys.argv[2]))
print("started", flush=True)
ingest_cases(store, dataset, dataset.cases, task=task, on_case=lambda name: print(name, flush=True))
"""


def test_being_killed_at_any_moment_loses_nothing_and_doubles_nothing(
    tmp_path: Path, task: Task
) -> None:
    for number in range(8):
        write_series(tmp_path / "disc" / f"{number}", _stored(number, (24, 64, 64)))
    whole = create_store(tmp_path / "whole", "north")
    dataset = find_cases(tmp_path / "disc")
    started = time.perf_counter()
    assert ingest_cases(whole, dataset, dataset.cases, task=task).added == 8
    took_s = time.perf_counter() - started
    killed, moments, told = create_store(tmp_path / "killed", "north"), random.Random(0), set()
    for _ in range(4):
        command = [sys.executable, "-c", KILLED, str(killed.folder), str(tmp_path / "disc")]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, took_s / 2))
            process.kill()
            told |= set(process.stdout.read().split())
        cases = [scan.case for scan in list_scans(open_store(killed.folder))]
        # What was told to be done is there, and nothing is there twice or without its patient.
        assert told <= set(cases)
        assert len(set(cases)) == len(cases)
        assert list(list_identities(killed)) == [scan.scan_id for scan in list_scans(killed)]
    report = _ingest(killed, tmp_path / "disc", task)
    assert report.added + report.already_known == 8
    assert list_scans(killed) == list_scans(whole)
    assert list_identities(killed) == list_identities(whole)
    assert count_quarantined(killed) == 0
