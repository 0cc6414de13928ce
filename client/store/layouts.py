"""Finds the cases of a data set: MSD, nnU-Net v2, plain images/ and labels/ folders, or DICOM."""

import csv
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from client.store.dicom_series import find_series, holds_dicom
from client.store.dicom_stacks import Stack
from client.store.volume_files import SUFFIXES
from common.errors import SettingsError
from common.scans import Modality

Layout = Literal["msd", "nnunet", "plain", "dicom", "loose"]


@dataclass(frozen=True)
class Case:
    """One scan of a data set.

    Attributes:
        name: what the hospital knows it by; for DICOM a pseudonym.
        images: a file per channel; for DICOM all files of the series.
        label: a full label, where there is one.
        stack: for DICOM, the frames of `images` that are read.
        parts: names under which parts of it may have been set aside before.
    """

    name: str
    images: tuple[Path, ...]
    label: Path | None
    stack: Stack | None = None
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """A data set's cases by name; `labels` maps values to names and may be empty.

    `modality` is what its description says, where that is clear.
    """

    layout: Layout
    folder: Path
    cases: tuple[Case, ...]
    labels: dict[int, str]
    channels: int
    modality: Modality | None = None


def find_cases(folder: Path) -> Dataset:
    """What lies in `folder`, or in the one data set inside it.

    Raises:
        SettingsError: the layout is not one of the four, or its description does not hold.
    """
    if not folder.is_dir():
        raise SettingsError(f"expected a folder with scans at {folder}, found none")
    inside = [path.parent for path in sorted(folder.glob("*/dataset.json"))]
    if not (folder / "dataset.json").exists() and len(inside) == 1:
        folder = inside[0]
    if (folder / "dataset.json").exists():
        description = _read_json(folder / "dataset.json")
        if "training" in description:
            return _read_msd(folder, description)
        if "channel_names" in description:
            return _read_nnunet(folder, description)
    # CDs of DICOM files may have a folder images/ too.
    if volumes_in(folder / "images"):
        return _read_plain(folder)
    if holds_dicom(folder):
        return _read_dicom(folder)
    if (folder / "images").is_dir():
        return _read_plain(folder)
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise SettingsError(
        f"{folder} holds {found}; expected dataset.json with `training` (MSD) or `channel_names` "
        "(nnU-Net v2), the folders images/ and labels/, or DICOM files anywhere inside"
    )


def _read_msd(folder: Path, description: dict[str, Any]) -> Dataset:
    try:
        values = {int(value): str(name) for value, name in description.get("labels", {}).items()}
        modalities = description.get("modality", {"0": ""}).values()
        cases = [
            Case(
                name=stem_of(Path(entry["image"])),
                images=(_inside(folder, entry["image"]),),
                label=_inside(folder, entry["label"]) if entry.get("label") else None,
            )
            for entry in description["training"]
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"{folder / 'dataset.json'}: expected `training` as a list of image and label, and "
            f"`labels` from value to name ({type(error).__name__}: {error})"
        ) from None
    return _dataset("msd", folder, cases, values, channels=modalities)


def _read_nnunet(folder: Path, description: dict[str, Any]) -> Dataset:
    named, ending = description["channel_names"], description.get("file_ending", ".nii.gz")
    if not isinstance(named, dict) or ending not in SUFFIXES:
        raise SettingsError(
            f"{folder / 'dataset.json'}: expected `channel_names` from number to name and a "
            f"`file_ending` out of {', '.join(SUFFIXES)}; got {named!r} and {ending!r}"
        )
    values: dict[int, str] = {}
    labels = description.get("labels", {})
    if not isinstance(labels, dict):
        raise SettingsError(
            f"{folder / 'dataset.json'}: expected `labels` from name to value, got {labels!r}"
        )
    for name, value in labels.items():
        if not isinstance(value, int):
            raise SettingsError(
                f"{folder / 'dataset.json'}: label {name!r} is the region {value!r}; expected one "
                "value per label: region-based data sets are not read"
            )
        values[value] = str(name)
    first = sorted((folder / "imagesTr").glob(f"*_0000{ending}"))
    names = [path.name.removesuffix(f"_0000{ending}") for path in first if _is_visible(path)]
    cases = []
    for name in names:
        images = tuple(folder / "imagesTr" / f"{name}_{c:04d}{ending}" for c in range(len(named)))
        label = folder / "labelsTr" / f"{name}{ending}"
        cases.append(Case(name, images, label if label.exists() else None))
    return _dataset("nnunet", folder, cases, values, channels=named.values())


def _read_plain(folder: Path) -> Dataset:
    labels = {stem_of(path): path for path in volumes_in(folder / "labels")}
    cases = [
        Case(stem_of(path), (path,), labels.get(stem_of(path)))
        for path in volumes_in(folder / "images")
    ]
    return _dataset("plain", folder, cases, _plain_label_names(folder))


def _read_dicom(folder: Path) -> Dataset:
    cases = [
        Case(found.name, found.paths, None, found.stack, found.parts)
        for found in find_series(folder)
    ]
    return _dataset("dicom", folder, cases, {})


def _plain_label_names(folder: Path) -> dict[int, str]:
    """Names from labels.csv (label, structure_name) or labels.json, if there is one."""
    try:
        if (folder / "labels.json").exists():
            named = _read_json(folder / "labels.json")
            return {int(value): str(name) for value, name in named.items()}
        if (folder / "labels.csv").exists():
            with (folder / "labels.csv").open(newline="", encoding="utf-8-sig") as file:
                return {int(r["label"]): str(r["structure_name"]) for r in csv.DictReader(file)}
    except (KeyError, ValueError, AttributeError) as error:
        raise SettingsError(
            f"the label names in {folder}: expected columns label and structure_name, or JSON from "
            f"value to name ({type(error).__name__}: {error})"
        ) from None
    return {}


def _dataset(
    layout: Layout,
    folder: Path,
    cases: list[Case],
    values: dict[int, str],
    channels: Collection[object] = ("",),
) -> Dataset:
    names = {value: name for value, name in values.items() if value != 0}
    ordered = tuple(sorted(cases, key=lambda case: case.name))
    return Dataset(layout, folder, ordered, names, len(channels), _modality(channels))


def _modality(channels: Collection[object]) -> Modality | None:
    """By the channels' names: CT is called so in both layouts, a sequence of MR has many names."""
    told = {str(name).casefold() for name in channels}
    if told == {"ct"}:
        return "CT"
    return "MR" if all(name.startswith("mr") for name in told) else None


def volumes_in(folder: Path) -> list[Path]:
    """The volumes that lie in a folder itself, by name; none if it is no folder."""
    if not folder.is_dir():
        return []
    return [p for p in sorted(folder.iterdir()) if p.name.endswith(SUFFIXES) and _is_visible(p)]


def _is_visible(path: Path) -> bool:
    """Not one of the "._" companions that macOS leaves behind."""
    return not path.name.startswith(".")


def stem_of(path: Path) -> str:
    """A volume's name without what says how it is written."""
    for suffix in (".nii.gz", *SUFFIXES):
        if path.name.endswith(suffix):
            return path.name.removesuffix(suffix)
    return path.stem


def _inside(folder: Path, relative: str) -> Path:
    path = (folder / relative).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise SettingsError(f"{folder / 'dataset.json'} points outside its folder: {relative!r}")
    return path


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingsError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected a JSON object, found {type(values).__name__}")
    return values
