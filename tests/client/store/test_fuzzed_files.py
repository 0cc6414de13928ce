"""Hundreds of malformed files through the whole ingest: each is read rightly or set aside."""

import gzip
import hashlib
import json
import random
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLSLossless, RLELossless
from small_dicom import write_enhanced, write_series

from client.store.arrays import load_array
from client.store.dicom_series import may_be_dicom
from client.store.layouts import find_cases
from client.store.scans import list_scans
from client.store.store import open_store

ROOT = Path(__file__).parents[3]
NUM_SERIES, NUM_ENHANCED, NUM_NIFTI = 340, 60, 150
MOST_MEGABYTES = 300
Spoil = Callable[[bytes, random.Random], bytes]

# Everything in another process, so that a crash or a hang would show, and memory can be measured.
INGEST = """
import json, re, sys
from pathlib import Path
from client.store import dicom_volume
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.store import create_store
from common.plan import Task

task = Task(name="first", classes=("organ",), modality=sys.argv[3], plane="axial", rounds=1,
            window_hu=(0, 100))
def peak_mb():
    # Not ru_maxrss, in which the process that started this one counts too.
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

before = peak_mb()
dataset = find_cases(Path(sys.argv[1]))
report = ingest_cases(create_store(Path(sys.argv[2]), "north"), dataset, dataset.cases, task=task)
print(json.dumps({
    "cases": len(dataset.cases),
    "ingested": report.added + report.already_known,
    "quarantined": [name for name, _ in report.quarantined],
    "megabytes": peak_mb() - before,
}))
"""


@dataclass(frozen=True)
class Told:
    """What the other process said; `megabytes` is by how much it grew."""

    cases: int
    ingested: int
    quarantined: list[str]
    megabytes: float


def _ingest(data: Path, store: Path, modality: str) -> Told:
    command = [sys.executable, "-W", "error", "-c", INGEST, str(data), str(store), modality]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    told = Told(**json.loads(done.stdout))
    assert told.cases == told.ingested + len(told.quarantined)
    assert told.megabytes < MOST_MEGABYTES
    return told


def _cut(data: bytes, rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data))]


def _flip(data: bytes, rng: random.Random) -> bytes:
    spoilt = bytearray(data)
    for _ in range(rng.randint(1, 12)):
        spoilt[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(spoilt)


def _overwrite(data: bytes, rng: random.Random) -> bytes:
    spoilt, at = bytearray(data), rng.randrange(len(data))
    patch = rng.randbytes(rng.randint(1, 40))
    spoilt[at : at + len(patch)] = patch
    return bytes(spoilt)


def _lose_middle(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.randint(1, 60) :]


def _grow_middle(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + rng.randbytes(rng.randint(1, 60)) + data[at:]


def _replace(data: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice([0, 1, 131, len(data)]))


ANY: list[Spoil] = [_cut, _flip, _overwrite, _lose_middle, _grow_middle, _replace]


def _random_after_preamble(data: bytes, rng: random.Random) -> bytes:
    return data[:132] + rng.randbytes(len(data))


def _absurd_length(data: bytes, rng: random.Random) -> bytes:
    """The length of one element promises gigabytes."""
    spoilt = bytearray(data)
    ats = [
        at for at in range(132, len(data) - 12) if data[at + 4 : at + 6] in (b"DS", b"UI", b"OW")
    ]
    at = rng.choice(ats)
    is_long = data[at + 4 : at + 6] == b"OW"
    struct.pack_into("<I" if is_long else "<H", spoilt, at + (8 if is_long else 6), 0xFFFE)
    if is_long:
        struct.pack_into("<I", spoilt, at + 8, rng.choice([0xFFFFFFF0, 0x7FFFFFFF, 0xFFFFFFFF]))
    return bytes(spoilt)


def _wrong_kind(data: bytes, rng: random.Random) -> bytes:
    """One element says that its value is of another kind."""
    kinds = [b"US", b"DS", b"IS", b"UI", b"CS", b"PN", b"SQ", b"OB", b"FD", b"AT", b"UN", b"??"]
    ats = [at for at in range(136, len(data)) if data[at : at + 2] in kinds]
    at = rng.choice(ats)
    return data[:at] + rng.choice(kinds) + data[at + 2 :]


def _nest(data: bytes, rng: random.Random) -> bytes:
    """Sequences in sequences without an end, before the patient's name."""
    at = data.index(b"\x10\x00\x10\x00PN")
    opening = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    return data[:at] + rng.randint(1, 4000) * opening + data[at:]


DICOM: list[Spoil] = [*ANY, _random_after_preamble, _absurd_length, _wrong_kind, _nest]
# Values that no scanner writes, as their bytes.
ABSURD: list[tuple[str, bytes]] = [
    *[("Rows", struct.pack("<H", n)) for n in (0, 1, 2047, 65535)],
    *[("Columns", struct.pack("<H", n)) for n in (0, 4, 65535)],
    *[("BitsAllocated", struct.pack("<H", n)) for n in (0, 1, 3, 32, 64, 65535)],
    *[("BitsStored", struct.pack("<H", n)) for n in (0, 8, 99)],
    *[("SamplesPerPixel", struct.pack("<H", n)) for n in (0, 3, 65535)],
    *[("PixelRepresentation", struct.pack("<H", n)) for n in (1, 9)],
    *[("Rows", b""), ("Rows", b"\5"), ("Columns", bytes(400)), ("Modality", b"")],
    *[("PhotometricInterpretation", b"RGB"), ("Modality", b"CT\\MR")],
    *[("PixelSpacing", text) for text in (b"0\\0", b"-1\\1", b"nan\\inf", b"1", b"1e-30\\1e30")],
    *[("ImagePositionPatient", text) for text in (b"1e300\\-1e300\\9", b"\\\\", b"1\\2", b"x")],
    *[("ImageOrientationPatient", text) for text in (b"0\\0\\0\\0\\0\\0", b"1\\" * 60, b"nan")],
    *[("RescaleSlope", text) for text in (b"1e308", b"0", b"nan", b"9" * 200, b"-1")],
    *[("SOPClassUID", b"x" * 64), ("SOPClassUID", b"")],
    *[("SeriesInstanceUID", b""), ("SeriesInstanceUID", b"\xff" * 64)],
    *[("PatientName", b"\xff" * 99), ("PixelSpacing", b"a")],
]  # fmt: skip


def _set(data: bytes, keyword: str, value: bytes) -> bytes:
    """Another value for an element of a short length."""
    tag = pydicom.tag.Tag(pydicom.datadict.tag_for_keyword(keyword) or 0)
    at = data.index(struct.pack("<HH", tag.group, tag.element), 132) + 6
    (length,) = struct.unpack_from("<H", data, at)
    return data[:at] + struct.pack("<H", len(value)) + value + data[at + 2 + length :]


def _spoil(data: bytes, number: int, rng: random.Random) -> bytes:
    return _set(data, *ABSURD[number]) if number < len(ABSURD) else rng.choice(DICOM)(data, rng)


def _stored(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 900, size=(4, 6, 5)).astype(np.int16)


def _pack(number: int) -> Callable[[Dataset, int], None]:
    """Every fourth series is packed, half of them each way; all have a slope."""

    def change(dataset: Dataset, _: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
        if number % 4 == 3 and number >= len(ABSURD):
            dataset.compress(RLELossless if number % 8 == 3 else JPEGLSLossless)

    return change


def _series(folder: Path) -> dict[int, tuple[int, Path]]:
    """Series of four slices, one file of each spoilt: by series, which slice and which file."""
    rng, spoilt = random.Random(0), {}
    for number in range(NUM_SERIES):
        paths = write_series(
            folder / f"{number}", _stored(number), modality="CT", uid=f"1.2.{number}",
            change=_pack(number), shuffled_by=number,
        )  # fmt: skip
        place = rng.randrange(4)
        path = paths[place]
        path.write_bytes(_spoil(path.read_bytes(), number, rng))
        spoilt[number] = (place, path)
    return spoilt


def _pseudonym(number: int) -> str:
    return f"series-{hashlib.sha256(f'1.2.{number}'.encode()).hexdigest()[:12]}"


def test_spoilt_slices_are_set_aside_and_others_are_read_rightly(tmp_path: Path) -> None:
    spoilt = _series(tmp_path / "disc")
    told = _ingest(tmp_path / "disc", tmp_path / "store", "CT")
    # Every spoilt file belongs to a case, unless it is no DICOM at all any more.
    in_cases = {path for case in find_cases(tmp_path / "disc").cases for path in case.images}
    passed_over = {n for n, (_, path) in spoilt.items() if path not in in_cases}
    assert not any(may_be_dicom(spoilt[number][1]) for number in passed_over)
    store = open_store(tmp_path / "store")
    scans = {scan.case: scan for scan in list_scans(store)}
    counts = {"whole": 0, "shortened": 0, "quarantined": 0}
    for number, (place, _) in spoilt.items():
        names = [name for name in scans if name.startswith(_pseudonym(number))]
        if not names:
            assert any(name.startswith(_pseudonym(number)) for name in told.quarantined), number
            counts["quarantined"] += 1
            continue
        # RAS turns rows and columns of a straight axial slice round.
        shown = load_array(store, scans[names[0]].display_key)[:, ::-1, ::-1].transpose(0, 2, 1)
        good = [n for n in range(4) if n != place]
        assert len(shown) == 4 or place in (0, 3), number
        kept = shown if len(shown) == 3 else shown[good]
        np.testing.assert_array_equal(kept, _stored(number)[good])
        counts["whole" if len(shown) == 4 else "shortened"] += 1
    print(counts, "passed over:", len(passed_over), told.megabytes)
    assert counts["quarantined"] > NUM_SERIES / 2


def test_spoilt_enhanced_files_are_set_aside_or_read(tmp_path: Path) -> None:
    rng = random.Random(1)
    for number in range(NUM_ENHANCED):
        path = tmp_path / "disc" / f"{number}" / "one"
        write_enhanced(path, _stored(number), [0, 1, 2, 3], slopes=[1, 2, 3, 4])
        path.write_bytes(rng.choice(DICOM)(path.read_bytes(), rng))
    told = _ingest(tmp_path / "disc", tmp_path / "store", "MR")
    passed_over = sum(not may_be_dicom(path) for path in (tmp_path / "disc").rglob("one"))
    assert told.cases + passed_over >= NUM_ENHANCED


def _nifti_values(data: bytes, number: int, rng: random.Random) -> bytes:
    """Numbers of the header that no program writes."""
    places = [(40, "<8h", 30000), (70, "<h", 99), (76, "<8f", 1e38), (108, "<f", 1e9),
              (112, "<2f", 1e38), (252, "<2h", 9), (280, "<12f", float("nan"))]  # fmt: skip
    at, kind, value = places[number % len(places)]
    spoilt = bytearray(data)
    each = struct.calcsize(kind.replace("8", "").replace("2", "").replace("1", ""))
    which = rng.randrange(struct.calcsize(kind) // each)
    struct.pack_into("<" + kind[-1], spoilt, at + which * each, value)  # type: ignore[arg-type]
    return bytes(spoilt)


def test_spoilt_nifti_is_set_aside_or_read(tmp_path: Path) -> None:
    rng, images = random.Random(2), tmp_path / "data" / "images"
    images.mkdir(parents=True)
    for number in range(NUM_NIFTI):
        data = nib.Nifti1Image(_stored(number), np.diag([1.0, 2, 3, 1])).to_bytes()
        if number < 40:
            data = _nifti_values(data, number, rng)
        elif number % 2:
            data = rng.choice(ANY)(data, rng)
        suffix, packed = ".nii", data
        if number % 3 == 0:
            suffix, packed = ".nii.gz", gzip.compress(data)
            packed = rng.choice(ANY)(packed, rng) if number % 2 == 0 and number >= 40 else packed
        elif number % 2 == 0 and number >= 40:
            packed = rng.choice(ANY)(packed, rng)
        (images / f"{number:03d}{suffix}").write_bytes(packed)
    told = _ingest(tmp_path / "data", tmp_path / "store", "MR")
    assert told.cases == NUM_NIFTI
    for scan in list_scans(open_store(tmp_path / "store")):
        assert np.isfinite(scan.geometry.affine).all()
    print({"ingested": told.ingested, "quarantined": len(told.quarantined)})
