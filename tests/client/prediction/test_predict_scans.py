"""A folder of scans to a folder of results: bad files, killed runs, other models, full disks."""

import csv
import json
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from small_dicom import write_series

from client.prediction import predict_scans as module
from client.prediction.model import Model
from client.prediction.predict_scans import REPLACED, PredictionReport, predict_scans
from client.prediction.results import PredictedBy, open_results
from client.store.loose_scans import find_scans
from common.errors import DiskFullError, SettingsError, StoreError

MakeModel = Callable[..., Model]
# Left, front, oblique: no axis is where RAS has it.
AFFINE = np.array([[0, -0.9, 0.1, 5], [0.2, 0, 2.5, 6], [-0.7, 0.1, 0, 7], [0, 0, 0, 1]])
SHAPE = (9, 10, 11)


def hard(number: int) -> np.ndarray:
    labels = np.zeros(SHAPE, dtype=np.uint8)
    labels[1 : 4 + number, 2:5, 3:9] = 1
    labels[7, 2:5, 3:9] = 2
    return labels


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two scans whose values are their labels, and one file that is none."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in (1, 2):
        image = (100 * hard(number).astype(np.int16)) - 100
        nib.save(nib.Nifti1Image(image, AFFINE), folder / f"scan{number}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"no scan")
    return folder


def run(model: Model, scans: Path, out: Path) -> PredictionReport:
    with open_results(out, scans, PredictedBy.of(model, None)) as results:
        return predict_scans(model, find_scans(scans, 1), results, None, lambda _: None)


def snapshot(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_results_lie_on_the_files_own_grid(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    before = snapshot(scans)
    report = run(make_model(), scans, tmp_path / "out")
    assert (report.predicted, report.done_before) == (("scan1", "scan2"), ())
    ((name, reason),) = report.set_aside
    assert (name, "truncated or damaged" in reason) == ("broken", True)
    for number in (1, 2):
        labels, confidence = (
            nib.load(tmp_path / "out" / f"scan{number}_{kind}.nii.gz")
            for kind in ("labels", "confidence")
        )
        assert labels.get_data_dtype() == np.uint8
        np.testing.assert_array_equal(np.asarray(labels.dataobj), hard(number))
        np.testing.assert_array_equal(np.asarray(confidence.dataobj), 1.0)
        for image in (labels, confidence):
            np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    assert snapshot(scans) == before


def test_the_record_and_the_table_say_how_much_of_what(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    model = make_model()
    run(model, scans, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "scan2_prediction.json").read_text("utf-8"))
    assert record["predicted_by"]["models_sha256"] == model.record.models_sha256
    assert record["predicted_by"]["federation"] == model.record.federation
    assert [(one["index"], one["name"], one["voxels"]) for one in record["structures"]] == [
        (1, "liver", 5 * 3 * 6), (2, "lesion", 18),
    ]  # fmt: skip
    assert {path.name for path in (tmp_path / "out").glob("scan2*")} == {
        *record["files"], "scan2_prediction.json",
    }  # fmt: skip
    with (tmp_path / "out" / "volumes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["scan"] for row in rows] == ["scan1", "scan2"]
    voxel_ml = abs(np.linalg.det(AFFINE[:3, :3])) / 1000
    assert float(rows[1]["liver (ml)"]) == pytest.approx(90 * voxel_ml, abs=1e-4)


def test_a_killed_run_goes_on_where_it_was(
    scans: Path, tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = make_model(), tmp_path / "out"
    draw = module.draw_overlay
    drawn: list[str] = []

    def killed(*arguments: object) -> bytes:
        drawn.append("once")
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return draw(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "draw_overlay", killed)
    with pytest.raises(KeyboardInterrupt):
        run(model, scans, out)
    (out / ".unfinished-half.nii.gz").write_bytes(b"half")  # as SIGKILL leaves it
    first = snapshot(out)
    report = run(model, scans, out)
    assert (report.predicted, report.done_before) == (("scan2",), ("scan1",))
    again = snapshot(out)
    assert {n: t for n, t in first.items() if n.startswith("scan1")}.items() <= again.items()
    assert not [name for name in again if name.startswith("unfinished")]
    assert run(model, scans, out).predicted == ()


def test_a_scan_that_changed_is_predicted_anew(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    run(make_model(), scans, tmp_path / "out")
    image = 100 * hard(0).astype(np.int16) - 100
    nib.save(nib.Nifti1Image(image, AFFINE), scans / "scan1.nii.gz")
    assert run(make_model(), scans, tmp_path / "out").predicted == ("scan1",)
    found = nib.load(tmp_path / "out" / "scan1_labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(found.dataobj), hard(0))


def test_another_models_results_stay(scans: Path, tmp_path: Path, make_model: MakeModel) -> None:
    out = tmp_path / "out"
    run(make_model(), scans, out)
    before = snapshot(out)
    for other in (make_model(number=3), make_model(role="segmenter")):
        with pytest.raises(SettingsError, match="results of another model, which stay:\n  student"):
            run(other, scans, out)
    assert snapshot(out) == before


@pytest.mark.parametrize("inside", [".", "results"])
def test_nothing_is_written_among_the_scans(
    scans: Path, make_model: MakeModel, inside: str
) -> None:
    before = snapshot(scans)
    with pytest.raises(SettingsError, match="lies among the scans"):
        run(make_model(), scans, scans / inside)
    with pytest.raises(SettingsError, match="lies among the scans"):
        run(make_model(), scans / "scan1.nii.gz", scans)
    assert snapshot(scans) == before


def test_a_folder_with_other_files_is_left_alone(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"holds other files \(thesis.tex\)"):
        run(make_model(), scans, tmp_path / "out")


def test_one_run_at_a_time(scans: Path, tmp_path: Path, make_model: MakeModel) -> None:
    model = make_model()
    with ExitStack() as stack:
        stack.enter_context(open_results(tmp_path / "out", scans, PredictedBy.of(model, None)))
        with pytest.raises(StoreError, match="another run writes"):
            run(model, scans, tmp_path / "out")


def test_where_a_file_lies_no_folder_is_made(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(StoreError, match=r"out cannot be made \(File exists\): choose another"):
        run(make_model(), scans, tmp_path / "out")


def test_a_full_disk_stops_the_run_and_leaves_whole_files(
    scans: Path, tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out = make_model(), tmp_path / "out"
    run(model, scans / "scan1.nii.gz", out)
    before = snapshot(out)
    full = os.statvfs_result((1, 1, 1, 0, 0, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: full)
    with pytest.raises(DiskFullError, match="run the same command again"):
        run(model, scans, out)
    assert snapshot(out) == before
    monkeypatch.undo()
    assert run(model, scans, out).predicted == ("scan2",)


def test_two_files_of_one_name_are_told(scans: Path, tmp_path: Path, make_model: MakeModel) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    image = nib.load(scans / "scan1.nii.gz")
    for ending in (".nii", ".nii.gz"):
        nib.save(image, tmp_path / "data" / "images" / f"scan1{ending}")
    report = run(make_model(), tmp_path / "data", tmp_path / "out")
    assert report.predicted == ("scan1",)
    ((name, reason),) = report.set_aside
    assert (name, reason) == ("scan1", "another file has the same name: rename one of them")


def test_dicom_gets_a_segmentation_and_keeps_its_pseudonym(
    tmp_path: Path, make_model: MakeModel
) -> None:
    pixels = (100 * hard(1).astype(np.int16)) - 100
    write_series(tmp_path / "scans", pixels, modality="CT")
    (name,) = run(make_model(), tmp_path / "scans", tmp_path / "out").predicted
    assert name.startswith("series-")
    written = {path.name for path in (tmp_path / "out").glob(f"{name}*")}
    assert f"{name}_labels.dcm" in written
    texts = [path.read_bytes() for path in (tmp_path / "out").iterdir() if path.suffix != ".dcm"]
    assert not any(b"Mustermann" in text or b"4711" in text for text in texts)


@pytest.mark.parametrize("name", ["b_$_$", "many.dots." * 20, "line\nbreak"])
def test_odd_names_are_names(tmp_path: Path, make_model: MakeModel, name: str) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    image = (100 * hard(1).astype(np.int16)) - 100
    nib.save(nib.Nifti1Image(image, AFFINE), folder / "scan.nii.gz")
    (folder / "scan.nii.gz").rename(folder / f"{name}.nii.gz")
    report = run(make_model(), folder, tmp_path / "out")
    assert (report.predicted, report.set_aside) == ((name,), ())
    assert (tmp_path / "out" / f"{name}_overlay.png").exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [(b"n" * 240, "would have names of 258 bytes"), (b"M\xfcller", "not in UTF-8")],
)
def test_a_name_that_results_cannot_have_is_told_and_the_others_go_on(
    scans: Path, tmp_path: Path, make_model: MakeModel, name: bytes, reason: str
) -> None:
    (scans / "broken.nii.gz").unlink()
    (scans / "scan1.nii.gz").rename(scans / os.fsdecode(name + b".nii.gz"))
    report = run(make_model(), scans, tmp_path / "out")
    assert report.predicted == ("scan2",)
    ((_, told),) = report.set_aside
    assert reason in told
    assert "rename the file" in told


def test_the_same_scan_stored_in_another_order_is_predicted_anew(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    run(make_model(), scans, tmp_path / "out")
    path = scans / "scan1.nii.gz"
    turned = nib.load(path).as_reoriented(np.array([[1, 1], [0, -1], [2, 1]]))
    nib.save(turned, path)
    report = run(make_model(), scans, tmp_path / "out")
    assert (report.predicted, report.done_before) == (("scan1",), ("scan2",))
    assert report.notes == (("scan1", REPLACED),)
    found = nib.load(tmp_path / "out" / "scan1_labels.nii.gz")
    assert found.shape == turned.shape
    np.testing.assert_allclose(found.affine, turned.affine, atol=1e-6)


def test_the_record_goes_first_and_comes_last(
    scans: Path, tmp_path: Path, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(make_model(), scans, tmp_path / "out")
    path, record = scans / "scan1.nii.gz", tmp_path / "out" / "scan1_prediction.json"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), 2 * AFFINE), path)
    removed = list[str]()

    def unlink(self: Path, missing_ok: bool = False) -> None:
        removed.append(self.name)
        os.unlink(self)
        raise KeyboardInterrupt  # as if it was stopped right then

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(KeyboardInterrupt):
        run(make_model(), scans, tmp_path / "out")
    assert removed[0] == record.name


def test_a_spacing_in_another_unit_is_told_and_the_others_go_on(
    scans: Path, tmp_path: Path, make_model: MakeModel
) -> None:
    path = scans / "scan1.nii.gz"
    nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), AFFINE * 1000), path)
    model = make_model(training={"patch_size": [8, 8, 8], "spacing_mm": [1, 1, 1]})
    report = run(model, scans, tmp_path / "out")
    assert report.predicted == ("scan2",)
    assert "in another unit?" in dict(report.set_aside)["scan1"]


def test_a_file_of_somebody_else_stays(scans: Path, tmp_path: Path, make_model: MakeModel) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "unfinished-thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SettingsError, match="holds other files"):
        run(make_model(), scans, tmp_path / "out")
    assert (tmp_path / "out" / "unfinished-thesis.txt").exists()
