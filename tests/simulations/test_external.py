"""External validation, and the commands that researchers and coordinators type."""

import json
import shutil
from pathlib import Path

import pytest
from small_scenario import small_scenario

from common.command_line import WRONG_INPUT
from common.errors import CheckpointError
from server import cli as coordinator
from server.run_folder import RunFolder
from simulations import cli as simulate
from simulations.external import evaluate_run
from simulations.progress import no_progress
from simulations.run import run_scenario

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("external") / "run"
    run_scenario(small_scenario(), None, out)
    return out


def test_a_run_is_scored_on_every_scan_of_a_folder(finished: Path) -> None:
    scores = evaluate_run(finished, finished / "phantoms", no_progress)
    # 2 stages x (2 sites x 3 scans + 2 test scans)
    assert {role: one.cases for role, one in scores.items()} == {"segmenter": 16, "student": 16}
    assert set(scores["segmenter"].dice) == {"head", "body"}
    assert scores["segmenter"].hd95_mm is not None


def test_an_unfinished_run_is_not_evaluated(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoints").glob("round-00004"):
        shutil.rmtree(path)
    with pytest.raises(CheckpointError, match=r"stands at round 3 of 4: finish it"):
        evaluate_run(tmp_path / "run", finished / "phantoms", no_progress)


def test_evaluate_writes_json(finished: Path, tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    words = ["evaluate", str(finished), "--data", str(finished / "phantoms"), "--json", str(path)]
    with pytest.raises(SystemExit) as ended:
        simulate.run(words, "oneslice simulate")
    assert ended.value.code == 0
    assert json.loads(path.read_text())["student"]["cases"] == 16


def test_a_finished_run_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenario = finished / "scenario.toml"
    import tomli_w

    values = small_scenario().model_dump(mode="json", exclude_none=True)
    scenario.write_text(tomli_w.dumps(values))
    with pytest.raises(SystemExit) as ended:
        simulate.run(["run", str(scenario), "--out", str(finished)], "oneslice simulate")
    assert ended.value.code == 0
    assert "finished earlier" in capsys.readouterr().out


def test_coordinator_sees_the_last_round(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        coordinator.run(["status", str(finished), "--format", "json"], "oneslice coordinator")
    assert ended.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["round"], found["rounds"], found["finished"]) == (4, 4, True)


def test_coordinator_writes_a_report_from_checkpoints_alone(finished: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(finished, folder.path)
    folder.report_json.unlink()
    with pytest.raises(SystemExit) as ended:
        coordinator.run(["report", str(folder.path)], "oneslice coordinator")
    assert ended.value.code == 0
    report = json.loads(folder.report_json.read_text())
    assert report["segmenter"] is None
    assert [site["name"] for site in report["sites"]] == ["hospital-a", "hospital-b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nonsense", "--out", "x"], "no scenario is called 'nonsense'"),
        (["run", "phantoms", "--out", "x", "--seed", "-1"], "seed = -1"),
        (["run", "phantoms", "--out", "x", "--engine", "warp"], "expected in-process or ray"),
        (["run", "hippocampus_stream", "--out", "x"], "give --data FOLDER"),
        (["evaluate", "nowhere", "--data", "."], "plan.toml"),
    ],
)
def test_wrong_input_ends_with_its_reason_and_no_traceback(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        simulate.run(words, "oneslice simulate")
    assert ended.value.code == WRONG_INPUT
    shown = capsys.readouterr().err
    assert message in shown
    assert "Traceback" not in shown
