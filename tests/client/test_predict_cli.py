"""`hospital predict` from end to end: with what came in rounds, and with a release."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hospital_rounds import ask, first_arrays, request_for
from safetensors.numpy import save

from client.approvals import approve
from client.cli import run
from client.local_round import Hospital, answer
from client.node import node_of
from client.predicting_model import check_labels
from client.store.received_models import load_newest
from common.errors import LabelDictionaryError
from common.plan import FederationPlan
from common.released_models import write_release
from common.updates import decode_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


def predict(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        run(["predict", *map(str, words)], "oneslice hospital")
    said = capsys.readouterr()
    assert (left.value.code or 0) == code, said
    return said.out, said.err


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """A scan that no hospital has registered."""
    path = tmp_path / "new" / "scan.nii.gz"
    path.parent.mkdir()
    image = np.random.default_rng(9).normal(size=(20, 18, 12)).astype(np.float32)
    nib.save(nib.Nifti1Image(image, np.diag([1, 2, 3, 1])), path)
    return path


@pytest.fixture
def release(tmp_path: Path, make_plan: MakePlan) -> Path:
    """A release of the whole plan with its first weights."""
    plan = make_plan()
    write_release(tmp_path / "release", save(first_arrays(plan)), plan, plan.num_rounds)
    return tmp_path / "release"


def test_the_models_that_came_last_predict(
    make_hospital: MakeHospital,
    make_plan: MakePlan,
    paint: Paint,
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first", "second")
    store = hospital.store.folder
    _, error = predict(capsys, scan, "--store", store, "--out", tmp_path / "a", code=1)
    assert "north has received no trained models yet" in error
    arrays = ask(hospital, plan, 1).arrays
    ask(hospital, plan, 2, arrays)
    assert load_newest(hospital.store).record.round == 1
    # The closing scores bring the models of the last round.
    final = {name: array + np.float32(0.25) for name, array in arrays.items()}
    assert ask(hospital, plan, plan.num_rounds, final, action="score").note.outcome == "scored"
    words = (scan, "--store", store, "--out", tmp_path / "b", "--format", "json")
    out, _ = predict(capsys, *words)
    told = json.loads(out)
    assert (told["model"], told["federation"], told["round"]) == ("student", plan.federation, 4)
    assert told["predicted"] == ["scan"]
    kept = load_newest(hospital.store)
    assert kept.record.models_sha256 == told["models_sha256"]
    np.testing.assert_array_equal(kept.arrays["student/model.0.residual.weight"],
                                  final["student/model.0.residual.weight"])  # fmt: skip


def test_what_is_kept_changes_no_reply(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan, replies = make_plan(), []
    for name in ("kept", "lost"):
        hospital = make_hospital(name)
        paint(hospital, plan, "first")
        arrays = ask(hospital, plan, 1).arrays
        if name == "lost":
            (hospital.store.folder / "received").write_text("no folder", encoding="utf-8")
        replies.append(decode_update(answer(hospital, request_for(plan, 2, arrays))))
    for array in replies[0].arrays:
        np.testing.assert_array_equal(replies[0].arrays[array], replies[1].arrays[array])


def test_a_release_needs_no_store(
    release: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (scan, "--release", release, "--out", tmp_path / "out")
    out, _ = predict(capsys, *words, "--model", "segmenter")
    assert "1 predicted, 0 done before, 0 set aside" in out
    _, error = predict(capsys, *words, code=2)
    assert "results of another model, which stay" in error
    _, error = predict(capsys, scan, "--out", tmp_path / "none", code=2)
    assert "expected the hospital's --store, or a release's folder as --release" in error


def test_a_changed_release_is_refused(
    release: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    models = release / "models.safetensors"
    models.write_bytes(models.read_bytes()[:-1] + b"\x7f")
    _, error = predict(capsys, scan, "--release", release, "--out", tmp_path / "out", code=1)
    assert "models.safetensors was changed: expected SHA-256" in error
    assert not (tmp_path / "out").exists()


def test_not_one_scan_that_can_be_used_is_exit_code_1(
    release: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scan.write_bytes(b"no scan")
    out, _ = predict(capsys, scan, "--release", release, "--out", tmp_path / "out", code=1)
    assert "0 predicted, 0 done before, 1 set aside" in out
    assert "scan: scan.nii.gz cannot be read: truncated or damaged" in out


def test_wrong_words_name_the_right_ones(
    release: Path, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = (scan, "--release", release, "--out", tmp_path / "out")
    _, error = predict(capsys, *words, "--task", "third", code=2)
    assert "has not learned a task 'third'; its tasks are first, second" in error
    _, error = predict(capsys, *words, "--device", "tpu", code=2)
    assert "expected one of auto, cpu, cuda" in error


def test_a_plan_without_a_student_says_so(
    make_plan: MakePlan, scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = make_plan(training={"student_steps_per_round": 0})
    write_release(tmp_path / "release", save(first_arrays(plan)), plan, 4)
    words = (scan, "--release", tmp_path / "release", "--out", tmp_path / "out")
    _, error = predict(capsys, *words, code=2)
    assert "trains no student" in error
    predict(capsys, *words, "--model", "segmenter")


def test_labels_of_another_version_are_refused(
    make_hospital: MakeHospital,
    make_plan: MakePlan,
    release: Path,
    scan: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hospital = make_hospital()
    node = node_of(hospital.store.folder, None).path
    node.mkdir()
    names = ({"name": "organ", "index": 1}, {"name": "lesion", "index": 2})
    swapped = ({**names[1], "index": 1}, {**names[0], "index": 2})
    approve(hospital.store, node, "ben", bundle=None, plans=[make_plan(labels=swapped)])
    words = ("--store", hospital.store.folder, "--release", release, "--out", tmp_path / "out")
    _, error = predict(capsys, scan, *words, code=2)
    assert "model:    1 organ, 2 lesion\n  approved: 1 lesion, 2 organ" in error
    # A federation that goes on has more labels than an earlier release of it.
    grown = make_plan(labels=(*names, {"name": "duct", "index": 3}))
    approve(hospital.store, node, "ben", bundle=None, plans=[grown])
    check_labels(node, make_plan())
    # Its own next release has labels that nobody here has agreed to, if only the first is approved.
    approve(hospital.store, node, "ben", bundle=None, plans=[make_plan()])
    with pytest.raises(LabelDictionaryError, match="approved: 1 organ, 2 lesion"):
        check_labels(node, grown)
    # Of another federation nothing is known here.
    check_labels(node, grown.model_copy(update={"name": "elsewhere"}))
