"""The three layouts are found, and what is not understood is refused with what was found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from client.store.layouts import find_cases
from common.errors import SettingsError

SaveNifti = Callable[..., Path]
MSD: dict[str, Any] = {
    "modality": {"0": "MRI"},
    "labels": {"0": "background", "1": "Anterior"},
    "training": [
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
        {"image": "./imagesTr/a.nii.gz"},
    ],
}
NNUNET: dict[str, Any] = {
    "channel_names": {"0": "T1", "1": "T2"},
    "labels": {"background": 0, "core": 1},
    "file_ending": ".nii.gz",
}


def _describe(folder: Path, description: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


def _touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_msd_cases_come_by_name_and_may_lack_files(tmp_path: Path) -> None:
    dataset = find_cases(_describe(tmp_path, MSD))
    assert (dataset.layout, dataset.channels, dataset.labels) == ("msd", 1, {1: "Anterior"})
    assert [case.name for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].label is None
    assert dataset.cases[1].label == (tmp_path / "labelsTr" / "b.nii.gz").resolve()


def test_msd_counts_its_channels(tmp_path: Path) -> None:
    four = {**MSD, "modality": {"0": "FLAIR", "1": "T1", "2": "T1c", "3": "T2"}}
    assert find_cases(_describe(tmp_path, four)).channels == 4


@pytest.mark.parametrize("entry", ["../secret.nii.gz", "/etc/passwd", "imagesTr/../../x.nii"])
@pytest.mark.parametrize("key", ["image", "label"])
def test_msd_paths_stay_inside(tmp_path: Path, key: str, entry: str) -> None:
    training = [{"image": "a.nii.gz", key: entry}]
    with pytest.raises(SettingsError, match="points outside its folder"):
        find_cases(_describe(tmp_path, {**MSD, "training": training}))


@pytest.mark.parametrize(
    "broken", [{"training": 3}, {"training": ["a"]}, {"training": [{}]}, {"labels": {"x": "y"}}]
)
def test_a_broken_msd_description_is_refused(tmp_path: Path, broken: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=r"dataset\.json: expected `training`"):
        find_cases(_describe(tmp_path, {**MSD, **broken}))


@pytest.mark.parametrize("nested", [True, False])
def test_nnunet_finds_channels_and_labels(tmp_path: Path, nested: bool) -> None:
    folder = _describe(tmp_path / "Dataset007_X" if nested else tmp_path, NNUNET)
    images, labels = folder / "imagesTr", folder / "labelsTr"
    _touch(images / "c1_0000.nii.gz", images / "c1_0001.nii.gz", labels / "c1.nii.gz")
    _touch(images / "c0_0000.nii.gz", images / "._c0_0000.nii.gz")
    dataset = find_cases(tmp_path)
    assert (dataset.layout, dataset.channels, dataset.labels) == ("nnunet", 2, {1: "core"})
    assert [case.name for case in dataset.cases] == ["c0", "c1"]
    names = [path.name for path in dataset.cases[1].images]
    assert names == ["c1_0000.nii.gz", "c1_0001.nii.gz"]
    assert dataset.cases[0].label is None
    assert dataset.cases[1].label == labels / "c1.nii.gz"


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"labels": {"whole": [1, 2]}}, "'whole' is the region"),
        ({"labels": [1]}, "`labels` from name to value"),
        ({"channel_names": 1}, "`channel_names` from number to name"),
        ({"file_ending": "/../../x.nii.gz"}, "`file_ending` out of"),
        ({"file_ending": ".png"}, "`file_ending` out of"),
    ],
)
def test_a_broken_nnunet_description_is_refused(
    tmp_path: Path, broken: dict[str, object], reason: str
) -> None:
    with pytest.raises(SettingsError, match=reason):
        find_cases(_describe(tmp_path, {**NNUNET, **broken}))


def test_plain_pairs_share_their_stem(tmp_path: Path) -> None:
    _touch(tmp_path / "images" / "a.nrrd", tmp_path / "images" / "b.nii.gz")
    _touch(tmp_path / "labels" / "a.nii", tmp_path / "images" / "._b.nii.gz")
    _touch(tmp_path / "images" / "notes.txt")
    dataset = find_cases(tmp_path)
    assert dataset.layout == "plain"
    assert [(case.name, case.label is not None) for case in dataset.cases] == [
        ("a", True),
        ("b", False),
    ]
    assert dataset.labels == {}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("labels.csv", "label,structure_name\n0,Background\n1,Left lobe\n"),
        ("labels.csv", "\ufefflabel,structure_name\n1,Left lobe\n"),
        ("labels.json", '{"1": "Left lobe"}'),
    ],
)
def test_plain_label_names(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert find_cases(tmp_path).labels == {1: "Left lobe"}


@pytest.mark.parametrize(
    ("name", "text"),
    [("labels.csv", "value,name\n1,x\n"), ("labels.csv", "label,structure_name\none,x\n"),
     ("labels.json", '["x"]'), ("labels.json", "{")],
)  # fmt: skip
def test_broken_label_names_are_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / name).write_text(text)
    with pytest.raises(SettingsError, match=r"label names|JSON"):
        find_cases(tmp_path)


def test_an_unknown_layout_says_what_was_found(tmp_path: Path, save_nifti: SaveNifti) -> None:
    save_nifti(tmp_path / "loose.nii.gz", np.zeros((2, 2, 2), dtype=np.uint8))
    with pytest.raises(SettingsError, match=r"holds loose\.nii\.gz; expected dataset\.json"):
        find_cases(tmp_path)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="found none"):
        find_cases(tmp_path / "nowhere")
