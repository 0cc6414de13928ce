"""Scans to look at as they come: a file, loose volumes in a folder, or a data set."""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from client.store.dicom_series import may_be_dicom
from client.store.layouts import Case, Dataset, find_cases, stem_of, volumes_in
from client.store.volume_files import SUFFIXES
from common.errors import SettingsError

# How nnU-Net numbers the channels of a case, which are files of their own.
CHANNEL = re.compile(r"(.+)_(\d{4})")


def find_scans(path: Path, channels: int) -> Dataset:
    """What `find_cases` knows, and besides: one volume; one DICOM file, for all of its series; a
    folder of volumes. Of several channels, volumes called CASE_0000, CASE_0001, ... are one scan.

    Raises:
        SettingsError: nothing is there, or nothing that can be a scan.
    """  # noqa: D205
    if path.is_file():
        return _read_file(path, channels)
    is_described = (path / "dataset.json").exists() or (path / "images").is_dir()
    if path.is_dir() and not is_described and (volumes := volumes_in(path)):
        return _loose(path, volumes, channels)
    return find_cases(path)


def _read_file(path: Path, channels: int) -> Dataset:
    if path.name.endswith(SUFFIXES):
        return _loose(path.parent, [path], channels)
    if not may_be_dicom(path):
        raise SettingsError(
            f"expected a volume ({', '.join(SUFFIXES)}), a DICOM file or a folder, got {path}"
        )
    around = find_cases(path.parent)
    cases = tuple(case for case in around.cases if path in case.images)
    if not cases:
        raise SettingsError(
            f"{path} is none of the scans that {path.parent} is described to hold: name the "
            "folder, or copy the file elsewhere"
        )
    return replace(around, cases=cases)


def _loose(folder: Path, volumes: list[Path], channels: int) -> Dataset:
    files: dict[str, list[Path]] = defaultdict(list)
    for volume in volumes:
        numbered = CHANNEL.fullmatch(stem_of(volume))
        is_channel = numbered is not None and channels > 1 and int(numbered[2]) < channels
        files[numbered[1] if numbered and is_channel else stem_of(volume)].append(volume)
    cases = tuple(Case(name, tuple(paths), None) for name, paths in sorted(files.items()))
    return Dataset("loose", folder, cases, {}, channels)
