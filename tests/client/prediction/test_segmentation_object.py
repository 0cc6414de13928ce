"""What is found in a DICOM series comes back in its place, with its names and its source."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from scipy.spatial.transform import Rotation
from small_dicom import rewrite, write_enhanced, write_series

from client.annotation.dicom_segmentation import read_segmentation
from client.annotation.same_grid import lay_on
from client.prediction.model import Model
from client.prediction.segmentation_object import write_segmentation
from client.store.dicom_series import find_series
from client.store.dicom_volume import read_stack
from client.store.orientation import to_ras
from client.store.volume_files import LPS_TO_RAS
from common.errors import BadScanError
from common.scans import Geometry

MakeModel = Callable[..., Model]
SHAPE = (5, 6, 7)  # slices, rows, columns
PIXELS = np.random.default_rng(0).integers(0, 900, size=SHAPE).astype(np.int16)
OBLIQUE = Rotation.from_euler("zyx", [12, -25, 33], degrees=True).as_matrix()
REVERSED = OBLIQUE * [1, 1, -1]  # slices go down against the normal of their rows and columns


def labels_of(shape: tuple[int, ...]) -> np.ndarray:
    """In the order (column, row, slice): no two axes or directions can be taken for each other."""
    labels = np.zeros(shape, dtype=np.uint8)
    labels[1:4, 0:2, 1:] = 1
    labels[5, 1:5, 0] = 2
    return labels


def predict_into(folder: Path, labels: np.ndarray, model: Model) -> Path:
    (found,) = find_series(folder)
    path = folder.with_suffix(".dcm")
    write_segmentation(path, labels, found.stack, model)
    return path


@pytest.mark.parametrize("directions", [np.eye(3), OBLIQUE, REVERSED])
def test_it_comes_back_in_its_place(
    tmp_path: Path, make_model: MakeModel, directions: np.ndarray
) -> None:
    folder = tmp_path / "series"
    write_series(
        folder,
        PIXELS,
        spacing_mm=(3.0, 0.75, 0.5),
        directions=directions,
        origin_mm=(10, -20, 30),
        shuffled_by=3,
    )
    labels = labels_of(SHAPE[::-1])
    path = predict_into(folder, labels, make_model())
    (found,) = find_series(folder)
    wanted, affine = to_ras(labels, read_stack(found.stack).volume.affine)
    _check_with_our_reader(path, wanted, affine)
    # And as highdicom sees it: the same labels at the same points of the patient.
    volume = hd.seg.segread(path).get_volume(combine_segments=True)
    points = np.argwhere(volume.array > 0)
    mm = points @ volume.affine[:3, :3].T + volume.affine[:3, 3]
    ras = mm * np.diag(LPS_TO_RAS)[:3]
    back = (np.linalg.inv(affine) @ np.c_[ras, np.ones(len(ras))].T).T[:, :3]
    np.testing.assert_allclose(back, np.round(back), atol=1e-3)
    np.testing.assert_array_equal(
        wanted[tuple(np.round(back).astype(int).T)], volume.array[tuple(points.T)]
    )
    assert len(points) == np.count_nonzero(labels)


def _check_with_our_reader(path: Path, wanted: np.ndarray, affine: np.ndarray) -> None:
    painted = read_segmentation(path)
    laid = np.zeros_like(wanted)
    geometry = Geometry(wanted.shape, tuple(tuple(row) for row in affine.tolist()))  # type: ignore[arg-type]
    for block in painted.blocks:
        values, box = lay_on(geometry, block.values, block.affine)
        laid[box] = np.maximum(laid[box], values)
    np.testing.assert_array_equal(laid, wanted)
    told = [(one.value, one.name, one.snomed) for one in painted.segments]
    assert told == [(1, "liver", "10200004"), (2, "lesion", None)]
    assert painted.patient == "MRN-4711-0815"


def test_it_says_what_made_it_of_which_images(tmp_path: Path, make_model: MakeModel) -> None:
    paths = write_series(tmp_path / "series", PIXELS)
    model = make_model()
    made = pydicom.dcmread(predict_into(tmp_path / "series", labels_of(SHAPE[::-1]), model))
    sources = [pydicom.dcmread(path) for path in paths]
    series = made.ReferencedSeriesSequence[0]
    assert series.SeriesInstanceUID == sources[0].SeriesInstanceUID
    referenced = {one.ReferencedSOPInstanceUID for one in series.ReferencedInstanceSequence}
    assert referenced == {one.SOPInstanceUID for one in sources}
    assert made.StudyInstanceUID == sources[0].StudyInstanceUID
    assert made.FrameOfReferenceUID == sources[0].FrameOfReferenceUID
    liver = made.SegmentSequence[0]
    assert liver.SegmentAlgorithmType == "AUTOMATIC"
    by = liver.SegmentationAlgorithmIdentificationSequence[0]
    assert (by.AlgorithmName, by.AlgorithmVersion) == (
        "OneSlice student", f"{model.record.federation} round 4",
    )  # fmt: skip
    assert f"models_sha256={model.record.models_sha256}" in by.AlgorithmParameters
    colour = hd.color.CIELabColor.from_dicom_value(list(liver.RecommendedDisplayCIELabValue))
    assert colour.to_rgb() == pytest.approx((0x1B, 0x9E, 0x77), abs=1)
    # Every frame names the slice that it lies on.
    at = {one.SOPInstanceUID: one.ImagePositionPatient for one in sources}
    for frame in made.PerFrameFunctionalGroupsSequence:
        source = frame.DerivationImageSequence[0].SourceImageSequence[0]
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        np.testing.assert_allclose(position, at[source.ReferencedSOPInstanceUID], atol=1e-4)


def test_frames_of_one_file_too(tmp_path: Path, make_model: MakeModel) -> None:
    folder = tmp_path / "series"
    pixels, heights_mm = PIXELS[:4].astype(np.uint16), [6.0, 0.0, 3.0, 9.0]
    study = {"StudyInstanceUID": "1.2.3.5"}
    write_enhanced(
        folder / "one.dcm", pixels, heights_mm, slopes=[1.0] * 4, change=lambda d: d.update(study)
    )
    labels = labels_of((7, 6, 4))
    path = predict_into(folder, labels, make_model())
    (found,) = find_series(folder)
    volume = read_stack(found.stack).volume
    wanted, affine = to_ras(labels, volume.affine)
    _check_with_our_reader(path, wanted, affine)


def test_labels_that_are_not_learned_yet_leave_no_gap(
    tmp_path: Path, make_model: MakeModel
) -> None:
    write_series(tmp_path / "series", PIXELS)
    tasks = make_model().record.plan.model_dump(mode="json")["tasks"]
    swapped = [{**tasks[0], "classes": ["lesion"]}, {**tasks[1], "classes": ["liver"]}]
    model = make_model(number=2, tasks=swapped)  # knows label 2 alone
    labels = np.where(labels_of(SHAPE[::-1]) == 2, 2, 0).astype(np.uint8)
    painted = read_segmentation(predict_into(tmp_path / "series", labels, model))
    assert [(one.value, one.name) for one in painted.segments] == [(1, "lesion")]
    assert sum(int(block.values.sum()) for block in painted.blocks) == 4


def test_nothing_found_is_told_too(
    tmp_path: Path, make_model: MakeModel, caplog: pytest.LogCaptureFixture
) -> None:
    write_series(tmp_path / "series", PIXELS)
    nothing = np.zeros(SHAPE[::-1], dtype=np.uint8)
    with caplog.at_level(logging.WARNING):
        painted = read_segmentation(predict_into(tmp_path / "series", nothing, make_model()))
    assert [one.name for one in painted.segments] == ["liver", "lesion"]
    assert not any(block.values.any() for block in painted.blocks)
    assert caplog.text == ""


@pytest.mark.parametrize("missing", ["StudyID", "AccessionNumber", "PatientName"])
def test_what_research_exports_leave_out_may_be_empty(
    tmp_path: Path, make_model: MakeModel, missing: str
) -> None:
    for path in write_series(tmp_path / "series", PIXELS):
        rewrite(path, lambda header: header.pop(missing))
    made = pydicom.dcmread(predict_into(tmp_path / "series", labels_of(SHAPE[::-1]), make_model()))
    assert not made[missing].value


def test_without_a_frame_of_reference_there_is_none(tmp_path: Path, make_model: MakeModel) -> None:
    for path in write_series(tmp_path / "series", PIXELS):
        rewrite(path, lambda header: header.pop("FrameOfReferenceUID"))
    with pytest.raises(BadScanError, match="no DICOM SEG could be made of it"):
        predict_into(tmp_path / "series", labels_of(SHAPE[::-1]), make_model())
    assert [path.name for path in tmp_path.iterdir()] == ["series"]
    shutil.rmtree(tmp_path / "series")
