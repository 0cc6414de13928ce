"""Series are found in any tree, whatever the files are called, and known by pseudonyms."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import EncapsulatedPDFStorage, MediaStorageDirectoryStorage
from small_dicom import PATIENT, rewrite, write_series

from client.store.dicom_series import FoundStack, find_series
from client.store.layouts import find_cases
from common.errors import SettingsError

ROOT = Path(__file__).parents[3]
STORED = np.random.default_rng(0).integers(0, 999, size=(4, 5, 6)).astype(np.int16)


def _pseudonym(uid: str) -> str:
    return f"series-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"


def _problems(found: list[FoundStack]) -> list[str]:
    return [stack.stack.problem for stack in found if stack.stack.problem is not None]


def _junk(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README").write_text("DICM is not at its place here")
    (folder / "report.pdf").write_bytes(b"%PDF-1.7\n" + bytes(400))
    (folder / "empty").touch()
    (folder / "random.dcm").write_bytes(np.random.default_rng(1).bytes(3000))


def _directory(path: Path) -> None:
    """A DICOMDIR, as it lies on every disc."""
    write_series(path.parent, STORED[:1])
    (path.parent / "IM0000").rename(path)

    def turn(dataset: Dataset) -> None:
        dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
        dataset.SOPClassUID = MediaStorageDirectoryStorage

    rewrite(path, turn)


def test_a_shuffled_tree_with_junk_gives_its_series(tmp_path: Path) -> None:
    for number in range(3):
        folder = tmp_path / PATIENT["PatientName"] / f"visit {number % 2}"
        for name in (f"S{number}", "deep/er"):
            write_series(folder / name, STORED, uid=f"1.2.{number}", shuffled_by=number)
        _junk(folder)
    _directory(tmp_path / "DICOMDIR")
    found = find_series(tmp_path)
    assert [stack.name for stack in found] == sorted(_pseudonym(f"1.2.{n}") for n in range(3))
    assert _problems(found) == []
    # "deep/er" was written twice over in the first visit: the later series has replaced it.
    assert sorted(len(stack.paths) for stack in found) == [4, 8, 8]


def test_the_layout_is_known_by_its_files_alone(tmp_path: Path) -> None:
    write_series(tmp_path / "a" / "b", STORED, uid="1.2.3", shuffled_by=0)
    (tmp_path / "images").mkdir()
    dataset = find_cases(tmp_path)
    assert (dataset.layout, dataset.channels, dataset.labels) == ("dicom", 1, {})
    (case,) = dataset.cases
    assert (case.name, case.label, len(case.images)) == (_pseudonym("1.2.3"), None, 4)


def test_images_folders_with_volumes_stay_plain(tmp_path: Path) -> None:
    write_series(tmp_path / "original", STORED)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.nii").touch()
    assert find_cases(tmp_path).layout == "plain"


def test_a_folder_of_junk_is_no_data_set(tmp_path: Path) -> None:
    _junk(tmp_path)
    with pytest.raises(SettingsError, match=r"or DICOM files anywhere inside"):
        find_cases(tmp_path)


def test_what_is_no_scan_is_told_by_its_kind(tmp_path: Path) -> None:
    def turn(dataset: Dataset) -> None:
        dataset.SOPClassUID, dataset.Modality = EncapsulatedPDFStorage, "OT"
        del dataset.Rows

    write_series(tmp_path / "scan", STORED, uid="1.2.3")
    for path in write_series(tmp_path / "letter", STORED[:2], uid="1.2.4"):
        rewrite(path, turn)
    found = {stack.name: stack.stack.problem for stack in find_series(tmp_path)}
    wanted = "holds no image: Encapsulated PDF Storage"
    assert found == {_pseudonym("1.2.3"): None, _pseudonym("1.2.4"): wanted}


def test_a_damaged_file_belongs_to_the_series_beside_it(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "scan", STORED, uid="1.2.3")
    paths[-1].write_bytes(paths[-1].read_bytes()[:200])
    (found,) = find_series(tmp_path)
    assert found.name == _pseudonym("1.2.3")
    assert found.stack.problem == "1 of its 4 files: is truncated or damaged"


def test_a_damaged_file_between_series_is_told_by_its_place(tmp_path: Path) -> None:
    for number in range(2):
        write_series(tmp_path, STORED, uid=f"1.2.{number}")
        for path in tmp_path.glob("IM*"):
            path.rename(tmp_path / f"{number} Mustermann {path.name}")
    damaged = tmp_path / "0 Mustermann IM0003"
    damaged.write_bytes(damaged.read_bytes()[:200])
    names = {_pseudonym(f"1.2.{number}") for number in range(2)}
    (alone,) = [stack for stack in find_series(tmp_path) if stack.name not in names]
    assert alone.name == f"file-{hashlib.sha256(damaged.name.encode()).hexdigest()[:12]}"
    wanted = "is truncated or damaged (file 4 of 8 in the order of their paths)"
    assert alone.stack.problem == wanted


def test_files_without_a_series_number_are_not_guessed_at(tmp_path: Path) -> None:
    for path in write_series(tmp_path, STORED):
        rewrite(path, lambda dataset: delattr(dataset, "SeriesInstanceUID"))
    (found,) = find_series(tmp_path)
    assert found.stack.problem is not None
    assert "SeriesInstanceUID is missing in 4 files" in found.stack.problem


def test_pipes_and_loops_are_not_waited_for(tmp_path: Path) -> None:
    write_series(tmp_path / "scan", STORED)
    os.mkfifo(tmp_path / "scan" / "pipe")
    (tmp_path / "scan" / "loop").symlink_to(tmp_path)
    (tmp_path / "scan" / "gone").symlink_to(tmp_path / "nowhere")
    (found,) = find_series(tmp_path)
    assert (len(found.paths), found.stack.problem) == (4, None)


WITHOUT_PYDICOM = """
import sys
from pathlib import Path

sys.modules["pydicom"] = None
from client.store.layouts import find_cases
from common.errors import SettingsError

try:
    find_cases(Path(sys.argv[1]))
except SettingsError as error:
    print(error)
"""


def test_without_the_extra_one_is_told_what_to_install(tmp_path: Path) -> None:
    write_series(tmp_path, STORED)
    command = [sys.executable, "-c", WITHOUT_PYDICOM, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "needs the package pydicom" in done.stdout
    assert "pip install 'oneslice[dicom]'" in done.stdout
