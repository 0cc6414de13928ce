"""Finds the series in a folder tree of DICOM files, whatever the files are called.

Names of files and folders often hold a patient's name, so nothing of them is passed on: a series is
known by a digest of its number, a file by its place among the files of the tree.
"""

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from client.store.dicom_stacks import MOST_DIRECTIONS, Frame, Stack, split_into_stacks
from common.errors import BadScanError, SettingsError

PREAMBLE_BYTES = 128
MAGIC = b"DICM"
# How files without a preamble begin: group 0008, element 0000 to 0018, little endian.
BARE_STARTS = {bytes([8, 0, n, 0]) for n in (0, 1, 5, 8, 0x16, 0x18)}
DIGEST_LETTERS = 12


@dataclass(frozen=True)
class FoundStack:
    """One volume to be, by its pseudonym.

    Attributes:
        name: its pseudonym.
        paths: its files.
        stack: its frames, or why they cannot be read.
        parts: pseudonyms under which parts of it may have been set aside before.
    """

    name: str
    paths: tuple[Path, ...]
    stack: Stack
    parts: tuple[str, ...]


@dataclass
class _Series:
    frames: list[Frame] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)


def holds_dicom(folder: Path) -> bool:
    """Whether there is a DICOM file anywhere in the tree."""
    return any(may_be_dicom(path) for path in _files(folder))


def find_series(folder: Path) -> list[FoundStack]:
    """Every stack of every series in the tree, good or bad, by name.

    Files that are no DICOM, and DICOMDIR, are passed over. A damaged file that does not tell its
    series belongs to the series of its folder if that holds one only; else it is told by itself.

    Raises:
        SettingsError: the extra `dicom` is not installed, or a folder cannot be listed.
    """
    try:
        # An extra: hospitals without DICOM need not have it.
        from client.store.dicom_headers import read_instance  # noqa: PLC0415
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("pydicom"):
            raise
        raise SettingsError(
            f"{folder} holds DICOM files; reading them needs the package pydicom, which is not "
            "installed: pip install 'oneslice[dicom]'"
        ) from None
    series: dict[str, _Series] = defaultdict(_Series)
    strays: list[tuple[Path, str]] = []
    files = sorted(_files(folder), key=str)
    place_of = {path: place for place, path in enumerate(files, start=1)}
    for path in place_of:
        instance = read_instance(path) if may_be_dicom(path) else None
        if instance is None:
            continue
        if instance.problem is not None and not instance.series:
            strays.append((path, instance.problem))
            continue
        found = series[instance.series]
        found.paths.append(path)
        found.frames.extend(instance.frames)
        if instance.problem is not None:
            found.problems[instance.problem] += 1
    left = _adopt(strays, series)
    named = [stack for uid, found in series.items() for stack in _stacks(folder, uid, found)]
    alone = [_alone(folder, path, problem, place_of) for path, problem in left]
    return sorted([*named, *alone], key=lambda stack: stack.name)


def _files(folder: Path) -> Iterator[Path]:
    """All regular files of the tree; links to folders are not followed."""

    def refuse(error: OSError) -> None:
        raise SettingsError(f"a folder in {folder} cannot be listed: {error.strerror}")

    for parent, _, names in os.walk(folder, onerror=refuse):
        for name in names:
            path = Path(parent, name)
            # A pipe or a device would be waited for forever.
            if path.is_file():
                yield path


def may_be_dicom(path: Path) -> bool:
    """Whether a file looks like DICOM, by its first bytes.

    One that cannot be opened may be: it is told of later, not passed over.
    """
    try:
        with path.open("rb") as file:
            head = file.read(PREAMBLE_BYTES + len(MAGIC))
    except OSError:
        return True
    return head[PREAMBLE_BYTES:] == MAGIC or head[:4] in BARE_STARTS


def _adopt(strays: list[tuple[Path, str]], series: dict[str, _Series]) -> list[tuple[Path, str]]:
    """Gives damaged files to the one series of their folder; returns those without such a one."""
    in_folder: dict[Path, set[str]] = defaultdict(set)
    for uid, found in series.items():
        for path in found.paths:
            in_folder[path.parent].add(uid)
    left = []
    for path, problem in strays:
        uids = in_folder[path.parent]
        if len(uids) == 1:
            found = series[next(iter(uids))]
            found.paths.append(path)
            found.problems[problem] += 1
        else:
            left.append((path, problem))
    return left


def _stacks(folder: Path, uid: str, found: _Series) -> list[FoundStack]:
    name = f"series-{_digest(uid)}"
    paths = tuple(found.paths)
    parts = tuple(_file_name(folder, path) for path in paths)
    problem = _problem(uid, found)
    if problem is None:
        try:
            stacks = split_into_stacks(found.frames)
        except BadScanError as error:
            problem = str(error)
    if problem is not None:
        return [FoundStack(name, paths, Stack((), problem), parts)]
    if len(stacks) == 1:
        # A slice that lay wrong and was repaired made several of it before.
        numbered = tuple(f"{name}-{number}" for number in range(1, MOST_DIRECTIONS + 1))
        return [FoundStack(name, paths, Stack(stacks[0]), (*numbered, *parts))]
    return [
        FoundStack(
            name=f"{name}-{number}",
            paths=tuple({frame.path: None for frame in frames}),
            stack=Stack(frames, siblings=len(stacks)),
            parts=(name, *parts),
        )
        for number, frames in enumerate(stacks, start=1)
    ]


def _problem(uid: str, found: _Series) -> str | None:
    num_files = len(found.paths)
    if not uid:
        return (
            f"SeriesInstanceUID is missing in {num_files} files: nothing tells what goes together"
        )
    if not found.problems:
        return None
    if sum(found.problems.values()) == num_files and len(found.problems) == 1:
        return next(iter(found.problems))
    told = "; ".join(
        f"{count} of its {num_files} files: {p}" for p, count in found.problems.items()
    )
    return told


def _alone(folder: Path, path: Path, problem: str, place_of: dict[Path, int]) -> FoundStack:
    place = f"file {place_of[path]} of {len(place_of)} in the order of their paths"
    name = _file_name(folder, path)
    return FoundStack(name, (path,), Stack((), f"{problem} ({place})"), ())


def _file_name(folder: Path, path: Path) -> str:
    return f"file-{_digest(str(path.relative_to(folder)))}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:DIGEST_LETTERS]
