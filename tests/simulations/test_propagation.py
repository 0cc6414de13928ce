"""The comparison of propagators on a folder of tiny scans, and its command."""

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from common.command_line import WRONG_INPUT
from common.errors import SettingsError
from common.scans import Geometry, Scan, SliceAnnotation, SliceRef
from simulations import cli, propagation_methods
from simulations.progress import no_progress
from simulations.propagation import ONE_SCAN, ComparisonSettings, compare_propagators
from simulations.propagation_methods import METHODS, Method, choose_methods
from simulations.propagation_plots import draw_plots
from simulations.propagation_scans import choose_plane, load_labelled_scans
from simulations.propagation_table import to_text
from simulations.propagator import Propagator, SoftLabels, TrainingSet

SHAPE = (12, 18, 14)
ROW_KEYS = {
    "method", "plane", "slice_choice", "scans", "mean_dice_without_annotated", "dice",
    "overrun_slices", "underrun_slices", "seconds_per_scan", "training_seconds", "seeds",
    "dice_std_over_seeds", "dice_std_over_scans", "dice_by_distance",
}  # fmt: skip


def write_folder(folder: Path, count: int, *, splits: bool = False, labels: bool = True) -> Path:
    """Plain scans with two touching boxes that drift along the first axis."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rows = ["case,split"]
    for number in range(count):
        label = np.zeros(SHAPE, np.uint8)
        for place in range(2, 10):
            label[place, 3 + place // 2 : 9 + place // 2, 4:8] = 1
            label[place, 3 + place // 2 : 9 + place // 2, 8:11] = 2
        image = (100 + 60 * label + rng.normal(0, 5, SHAPE)).astype(np.float32)
        affine = np.diag([2.0, 1.0, 1.0, 1.0])
        name = f"case{number}"
        nib.save(nib.Nifti1Image(image, affine), folder / "images" / f"{name}.nii.gz")
        if labels:
            nib.save(nib.Nifti1Image(label, affine), folder / "labels" / f"{name}.nii.gz")
        rows.append(f"{name},{'test' if number % 2 else 'train'}")
    (folder / "labels.json").write_text('{"1": "head", "2": "body"}')
    if splits:
        (folder / "cases.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("comparison") / "data", 4, splits=True)


def settings_of(**changes: object) -> ComparisonSettings:
    values = {"methods": ("static-copy", "soft-affinity"), "slice_choices": ("oracle", "random")}
    return ComparisonSettings.model_validate({**values, "training_steps": 1, **changes})


@pytest.fixture
def in_two_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is learned, is learned in two parts instead of ten, each of a step at least."""
    monkeypatch.setattr("simulations.oneslice_methods.PARTS", 2)
    monkeypatch.setattr("simulations.pooled_training.PARTS", 2)


@pytest.mark.usefixtures("in_two_parts")
def test_every_method_and_choice_has_a_row(data: Path, tmp_path: Path) -> None:
    settings = settings_of(methods=(), slice_choices=("oracle", "centre"))
    comparison = compare_propagators(data, tmp_path, settings, no_progress)
    by_name = {method.name: method for method in METHODS}
    names = list(by_name)
    assert [(row.method, row.slice_choice) for row in comparison.rows] == [
        (name, choice) for name in names for choice in ("oracle", "centre")
    ]
    assert comparison.plane == "sagittal"
    assert "2.00 mm" in comparison.plane_reason
    for row in comparison.rows:
        assert row.scans == 2  # case1 and case3
        assert set(row.dice) == {"head", "body"}
        assert (row.training_seconds > 0) == by_name[row.method].learns
    best = {row.method: row.mean_dice_without_annotated for row in comparison.rows}
    assert best["soft-affinity"] > best["static-copy"]


def test_seeds_repeat_what_is_drawn_or_learnt_and_nothing_else(data: Path, tmp_path: Path) -> None:
    settings = settings_of(methods=("static-copy", "sli2vol"), seeds=2)
    rows = compare_propagators(data, tmp_path, settings, no_progress).rows
    assert {(row.method, row.slice_choice): row.seeds for row in rows} == {
        ("static-copy", "oracle"): 1,
        ("static-copy", "random"): 2,
        ("sli2vol", "oracle"): 2,
        ("sli2vol", "random"): 2,
    }
    again = compare_propagators(data, tmp_path, settings, no_progress).rows
    assert [row.dice for row in rows] == [row.dice for row in again]


def test_a_slice_beside_the_structures_scores_zero_and_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def first_slice(scans: list[Scan], *_: object) -> list[SliceRef]:
        return [SliceRef(scan.scan_id, 0, 0) for scan in scans]

    monkeypatch.setattr("simulations.propagation.choose_slices", first_slice)
    rows = compare_propagators(data, tmp_path, settings_of(), no_progress).rows
    for row in rows:
        assert (row.scans, row.mean_dice_without_annotated) == (2, 0)
        assert (row.overrun_slices, row.underrun_slices) == (0, 8)


def test_a_method_of_ones_own_is_a_row(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[TrainingSet] = []

    def prepare(training: TrainingSet) -> Propagator:
        seen.append(training)

        def propagate(scan: Scan, annotation: SliceAnnotation) -> SoftLabels:
            bright = (scan.image[0] > 0.5).astype(np.float32)
            return SoftLabels((1,), np.stack([1 - bright, bright]))

        return propagate

    own = Method("fused-with-nothing", prepare, learns=True)
    monkeypatch.setattr(propagation_methods, "METHODS", (*METHODS, own))
    settings = settings_of(methods=("fused-with-nothing",), slice_choices=("oracle",), seed=3)
    (row,) = compare_propagators(data, tmp_path, settings, no_progress).rows
    assert (seen[0].axis, seen[0].steps, seen[0].seed, len(seen[0].scans)) == (0, 1, 3, 2)
    # The body is called head as well: of the head's 4 columns all are found, and 3 more.
    assert row.dice == pytest.approx({"head": 2 * 4 / (4 + 7), "body": 0})


def test_the_split_decides_who_is_scored_and_who_is_learnt_from(data: Path, tmp_path: Path) -> None:
    scans = load_labelled_scans(
        data, tmp_path, num_scans=0, seed=0, with_training=True, progress=no_progress
    )
    assert {row.case for row in scans.scored} == {"case1", "case3"}
    assert {row.case for row in scans.training} == {"case0", "case2"}
    assert scans.notes == ()


def test_without_a_split_all_are_scored_and_a_note_says_what_was_learnt_from(
    tmp_path: Path,
) -> None:
    folder = write_folder(tmp_path / "data", 3)
    scans = load_labelled_scans(
        folder, tmp_path / "out", num_scans=2, seed=0, with_training=True, progress=no_progress
    )
    assert len(scans.scored) == 2
    assert scans.training == scans.scored
    assert "scored scans themselves, without their labels" in scans.notes[0]


def test_a_bad_scan_is_named_and_the_rest_is_scored(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", 3)
    (folder / "images" / "case1.nii.gz").write_bytes(b"nothing")
    scans = load_labelled_scans(
        folder, tmp_path / "out", num_scans=0, seed=0, with_training=False, progress=no_progress
    )
    assert {row.case for row in scans.scored} == {"case0", "case2"}
    assert "case1" in scans.notes[0]


def test_a_scan_under_two_names_counts_once_and_is_not_learnt_from(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "data", 4, splits=True)
    for part in ("images", "labels"):
        shutil.copy(folder / part / "case1.nii.gz", folder / part / "case2.nii.gz")
    scans = load_labelled_scans(
        folder, tmp_path / "out", num_scans=0, seed=0, with_training=True, progress=no_progress
    )
    assert sorted(row.case for row in scans.scored) == ["case1", "case3"]
    assert [row.case for row in scans.training] == ["case0"]
    assert scans.notes == ("left out, the same scan under another name: case2",)


def geometry(shape: tuple[int, int, int], *spacing_mm: float) -> Geometry:
    return Geometry(shape, tuple(tuple(row) for row in np.diag([*spacing_mm, 1.0]).tolist()))


@pytest.mark.parametrize(
    ("shape", "spacing_mm", "plane"),
    [
        ((256, 256, 20), (0.7, 0.7, 2.5), "axial"),
        ((20, 256, 256), (0.7, 2.5, 0.7), "coronal"),
        ((192, 192, 10), (1, 1, 1), "axial"),
        ((36, 50, 35), (1, 1, 1), "sagittal"),  # as good as equal: the first
    ],
)
def test_the_plane_follows_from_the_geometry(
    shape: tuple[int, int, int], spacing_mm: tuple[float, ...], plane: str
) -> None:
    assert choose_plane("auto", [geometry(shape, *spacing_mm)])[0] == plane
    assert choose_plane("coronal", [geometry(shape, *spacing_mm)]) == ("coronal", "asked for")


def noise(name: str, shape: tuple[int, ...]) -> Scan:
    i, j, k = shape
    image = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    return Scan(name, image, geometry((i, j, k), 1, 1, 1), "MR")


def one_step(scan: Scan, annotation: SliceAnnotation) -> TrainingSet:
    """A step of training on a scan that is not scored."""
    axis = annotation.ref.axis
    return TrainingSet((scan,), (annotation,), False, axis=axis, seconds=1, steps=1, seed=0)


@pytest.mark.usefixtures("in_two_parts")
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("depth", [1, 2])
def test_scans_of_few_slices_along_any_axis(axis: int, depth: int) -> None:
    shape = [9, 8, 10]
    shape[axis] = depth
    scan = noise("scan", tuple(shape))
    mask = np.zeros([n for place, n in enumerate(shape) if place != axis], np.uint8)
    mask[2:5, 3:6] = 7
    annotation = SliceAnnotation(SliceRef("scan", axis, 0), mask, (2, 7), "truth", 0)
    for method in METHODS:
        labels = method.prepare(one_step(scan, annotation))(scan, annotation)
        assert 7 in labels.classes
        assert labels.soft.shape == (1 + len(labels.classes), *shape)
        np.testing.assert_allclose(labels.soft.sum(0), 1, atol=1e-5)
        # The segmenter alone does not look at the scan's own slice.
        if method.name != "segmenter-alone":
            np.testing.assert_array_equal(labels.hard()[annotation.ref.selection], mask)


@pytest.mark.usefixtures("in_two_parts")
def test_an_empty_slice_gives_background_alone() -> None:
    scan = noise("scan", (6, 8, 10))
    annotation = SliceAnnotation(
        SliceRef("scan", 1, 0), np.zeros((6, 10), np.uint8), (1,), "truth", 0
    )
    by_the_slice = [method for method in METHODS if not method.learns_labels]
    assert len(by_the_slice) == len(METHODS) - 3
    for method in by_the_slice:
        labels = method.prepare(one_step(scan, annotation))(scan, annotation)
        assert not labels.hard().any()
        assert (labels.soft[0] == 1).all()


def test_a_library_that_is_missing_leaves_its_method_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(propagation_methods, "find_spec", lambda _: None)
    assert "optical-flow" not in [method.name for method in choose_methods([])]
    with pytest.raises(SettingsError, match=r"needs the library skimage.*oneslice\[simulation\]"):
        choose_methods(["optical-flow"])


def test_the_table_and_the_plots(data: Path, tmp_path: Path) -> None:
    comparison = compare_propagators(data, tmp_path / "out", settings_of(), no_progress)
    text = to_text(comparison)
    assert text.index("oracle (chosen with the truth)") < text.index("random (without labels)")
    assert text.count("soft-affinity") == 2
    paths = draw_plots(comparison, tmp_path / "plots")
    assert [path.name for path in paths] == [
        "dice-by-distance-oracle.png",
        "dice-by-distance-random.png",
        "dice.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)


def test_the_command_writes_json_and_plots(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["propagation", "--data", str(data), "--methods", "static-copy", "--scans", "1",
             "--slice-choice", "oracle", "--json", str(tmp_path / "new" / "rows.json"),
             "--plots", str(tmp_path / "plots"), "--format", "json"]  # fmt: skip
    with pytest.raises(SystemExit) as ended:
        cli.run(words, "oneslice simulate")
    assert ended.value.code == 0
    written = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert written == json.loads(capsys.readouterr().out)
    (row,) = written["rows"]
    assert set(row) == ROW_KEYS
    assert (row["plane"], row["slice_choice"], row["scans"]) == ("sagittal", "oracle", 1)
    assert (tmp_path / "plots" / "dice.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--methods", "magic"], "no method is called 'magic'; there are static-copy, "),
        (["--slice-choice", "best"], "slice choice 'best': expected one or more of oracle, "),
        (["--plane", "oblique"], "plane = 'oblique'"),
        (["--scans", "-1"], "scans = -1"),
        (["--seeds", "0"], "seeds = 0"),
        (["--training-seconds", "0"], "training_seconds = 0"),
    ],
)
def test_wrong_options_are_named(
    words: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.run(["propagation", "--data", str(data), *words], "oneslice simulate")
    assert ended.value.code == WRONG_INPUT
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown


@pytest.mark.usefixtures("in_two_parts")
def test_of_one_scan_the_rows_with_a_segmenter_are_left_out_unless_asked_for(
    tmp_path: Path,
) -> None:
    one = write_folder(tmp_path / "one", 1)
    with pytest.raises(SettingsError, match=r"one scan is too few.*score 2 at least, or leave out"):
        compare_propagators(
            one,
            tmp_path / "a",
            settings_of(methods=("static-copy", "segmenter-alone")),
            no_progress,
        )
    settings = settings_of(methods=(), slice_choices=("oracle",))
    comparison = compare_propagators(one, tmp_path / "b", settings, no_progress)
    methods = {row.method for row in comparison.rows}
    assert {"static-copy", "oneslice"} <= methods
    assert not any("segmenter" in name or "fused" in name for name in methods)
    assert ONE_SCAN in comparison.notes


def test_labels_of_any_name_are_scored(tmp_path: Path) -> None:
    data = write_folder(tmp_path / "data", 1)
    long = "a name of more than sixty-four characters, as an atlas of the brain may have one"
    for names, wanted in (
        ({"1": "kidney", "2": "kidney"}, {"kidney 1", "kidney 2"}),
        ({"1": "", "2": long}, {"label-1", long}),
    ):
        (data / "labels.json").write_text(json.dumps(names))
        settings = settings_of(methods=("static-copy",), slice_choices=("oracle",))
        comparison = compare_propagators(data, tmp_path / next(iter(wanted)), settings, no_progress)
        assert set(comparison.rows[0].dice) == wanted
        assert ONE_SCAN not in comparison.notes, "nobody asked for these rows"


def test_folders_that_cannot_be_scored_say_why(tmp_path: Path) -> None:
    settings = settings_of()
    unlabelled = write_folder(tmp_path / "unlabelled", 2, labels=False)
    with pytest.raises(SettingsError, match=r"none of its 2 cases has a label.*labelled folder"):
        compare_propagators(unlabelled, tmp_path / "a", settings, no_progress)
    without_test = write_folder(tmp_path / "train", 1, splits=True)
    with pytest.raises(SettingsError, match=r"values \['train'\].*expected some `test`"):
        compare_propagators(without_test, tmp_path / "b", settings, no_progress)
    broken = write_folder(tmp_path / "broken", 1)
    (broken / "images" / "case0.nii.gz").write_bytes(b"nothing")
    with pytest.raises(SettingsError, match=r"none of 1 labelled cases can be used: .*case0"):
        compare_propagators(broken, tmp_path / "c", settings, no_progress)
