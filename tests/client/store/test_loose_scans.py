"""Files as they come: one, several, with channels of their own, or what `find_cases` knows."""

from pathlib import Path

import numpy as np
import pytest
from small_dicom import write_series

from client.store.loose_scans import find_scans
from common.errors import SettingsError

PIXELS = np.random.default_rng(0).integers(0, 9, size=(4, 5, 6)).astype(np.int16)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")


def test_a_file_is_one_scan_whatever_lies_beside_it(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "b.nii.gz", "images/c.nii.gz")
    found = find_scans(tmp_path / "b.nii.gz", 1)
    assert [(case.name, case.images) for case in found.cases] == [("b", (tmp_path / "b.nii.gz",))]


def test_loose_volumes_of_a_folder(tmp_path: Path) -> None:
    touch(tmp_path, "b.mha", "a.nii.gz", "._a.nii.gz", "notes.txt", "deeper/d.nii")
    assert [case.name for case in find_scans(tmp_path, 1).cases] == ["a", "b"]


def test_channels_of_their_own_are_put_together_where_the_model_takes_several(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "a_0001.nii", "a_0000.nii", "b.nii")
    found = {case.name: [one.name for one in case.images] for case in find_scans(tmp_path, 2).cases}
    assert found == {"a": ["a_0000.nii", "a_0001.nii"], "b": ["b.nii"]}
    assert [case.name for case in find_scans(tmp_path, 1).cases] == ["a_0000", "a_0001", "b"]


def test_a_described_data_set_stays_one(tmp_path: Path) -> None:
    touch(tmp_path, "images/c.nii.gz", "preview.nii.gz")
    found = find_scans(tmp_path, 1)
    assert (found.layout, [case.name for case in found.cases]) == ("plain", ["c"])


def test_one_dicom_file_stands_for_its_series(tmp_path: Path) -> None:
    paths = write_series(tmp_path, PIXELS)
    write_series(tmp_path / "other", PIXELS)
    (case,) = find_scans(paths[2], 1).cases
    assert set(case.images) == set(paths)


def test_nothing_that_can_be_a_scan_is_an_error(tmp_path: Path) -> None:
    touch(tmp_path, "notes.txt")
    with pytest.raises(SettingsError, match=r"expected a volume .* got .*notes.txt"):
        find_scans(tmp_path / "notes.txt", 1)
    with pytest.raises(SettingsError, match="expected a folder with scans"):
        find_scans(tmp_path / "nowhere", 1)


def test_a_channel_that_is_missing_is_not_made_up_for_by_another(tmp_path: Path) -> None:
    touch(tmp_path, "A_0000.nii.gz", "A_0002.nii.gz")
    found = {case.name: len(case.images) for case in find_scans(tmp_path, 2).cases}
    assert found == {"A": 1, "A_0002": 1}


def test_a_dicom_file_that_the_folder_does_not_describe_is_told(tmp_path: Path) -> None:
    touch(tmp_path, "images/c.nii.gz")
    write_series(tmp_path, PIXELS)
    path = next(path for path in tmp_path.iterdir() if path.is_file())
    with pytest.raises(SettingsError, match="is none of the scans that"):
        find_scans(path, 1)
