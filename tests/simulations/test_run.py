"""A whole small federation: resumed, with hospitals that misbehave, on both engines."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from small_scenario import drift, small_scenario

from client.store.audit import read_audit
from client.store.store import create_store, open_store
from common.errors import LabelDictionaryError, SettingsError
from common.updates import Arrays
from server.checkpoints import load_state
from server.report import Report
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
from simulations.progress import no_progress
from simulations.run import prepare, run_scenario
from simulations.scenario import Fault, Scenario

pytestmark = [
    # MLflow's first use of a database tells of its own deprecated calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent.parent)}


def assert_same_bits(one: Arrays, other: Arrays) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


def command_line(scenario: Scenario, folder: Path) -> list[str]:
    settings = folder / "small.toml"
    settings.write_text(tomli_w.dumps(scenario.model_dump(mode="json", exclude_none=True)))
    oneslice = [sys.executable, "-m", "oneslice", "simulate", "run"]
    return [*oneslice, str(settings), "--out", str(folder / "out")]


def final_arrays(out: Path, scenario: Scenario) -> Arrays:
    state = load_state(RunFolder(out).checkpoints, scenario.plan)
    assert state is not None
    assert state.closing is not None
    return state.arrays


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("finished")
    return out, run_scenario(small_scenario(), None, out, local_only=True)


def test_a_run_leaves_what_the_design_promises(finished: tuple[Path, Report]) -> None:
    out, report = finished
    for name in ("plan.toml", "mlflow.db", "report.html", "report.json", "cases.csv"):
        assert (out / name).stat().st_size > 0, name
    assert Report.model_validate_json((out / "report.json").read_text()) == report
    assert [site.name for site in report.sites] == ["hospital-a", "hospital-b"]
    assert [one.site for one in report.local_only] == ["hospital-a", "hospital-b"]
    assert report.continual is not None
    assert np.shape(report.continual.dice_matrix) == (2, 2)
    before, fresh = report.continual.untrained
    assert before is None
    assert fresh is not None
    assert 0 < fresh < 1  # both stages teach the same classes: weights nobody trained find some
    assert report.segmenter is not None
    assert report.segmenter.cases == 4
    assert report.communication.rounds == 4
    # 2 sites x 2 stages x 3 scans, one slice each
    assert report.annotation.slices == 12


def test_cases_csv_means_are_the_reports_means(finished: tuple[Path, Report]) -> None:
    out, report = finished
    with (out / "cases.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["model"] == "segmenter"]
    assert report.segmenter is not None
    for structure, mean in report.segmenter.dice.items():
        values = [float(row["dice"]) for row in rows if row["structure"] == structure]
        assert np.mean(values) == pytest.approx(mean)


def test_what_no_stage_before_taught_is_no_transfer(tmp_path: Path) -> None:
    values = small_scenario().model_dump()
    for task, name in zip(values["plan"]["tasks"], ("head", "body"), strict=True):
        task["classes"] = (name,)
    report = run_scenario(Scenario.model_validate(values), None, tmp_path)
    assert report.continual is not None
    # A body is found by nobody before its stage: not by the first stage, nor by fresh weights.
    assert report.continual.dice_matrix[0][1] == 0
    assert report.continual.untrained == (None, 0.0)
    assert report.continual.fwt == 0


def test_alone_and_without_replay_a_hospital_has_the_stages_that_it_has_scans_for(
    tmp_path: Path,
) -> None:
    scenario = small_scenario(replay={"share": 0.0})
    first, second = scenario.deals
    deals = (first, second.model_copy(update={"sites": ("hospital-b",)}))
    scenario = scenario.model_copy(update={"deals": deals})
    run_scenario(scenario, None, tmp_path, local_only=True)
    for site, tasks in (("hospital-a", 1), ("hospital-b", 2)):
        plan = RunFolder(tmp_path / "local_only" / site).read_plan()
        assert len(plan.tasks) == tasks


def test_a_student_that_nobody_trained_is_not_scored(tmp_path: Path) -> None:
    whole = small_scenario().plan.training
    training = whole.model_copy(update={"student_steps_per_round": 0}).model_dump()
    report = run_scenario(small_scenario(training=training), None, tmp_path)
    assert report.student is None
    assert report.segmenter is not None
    with (tmp_path / "cases.csv").open() as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"segmenter"}
    assert "student, mean test Dice" not in (tmp_path / "report.html").read_text()


def test_without_a_report_the_run_is_finished_once_more(
    finished: tuple[Path, Report], tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    shutil.copytree(finished[0], out)
    # Killed between the scores of the test scans, cut short here, and the report.
    whole = (out / "cases.csv").read_bytes()
    (out / "cases.csv").write_bytes(whole[: len(whole) // 2])
    (out / "report.json").unlink()
    again = run_scenario(small_scenario(), None, out)
    assert (out / "cases.csv").read_bytes() == whole
    assert again.segmenter == finished[1].segmenter


def test_the_scores_of_test_scans_are_there_before_the_report(
    finished: tuple[Path, Report], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "killed"
    shutil.copytree(finished[0], out)
    whole = (out / "cases.csv").read_bytes()
    for name in ("cases.csv", "report.json"):
        (out / name).unlink()

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("simulations.report.write_report", killed)
    with pytest.raises(KeyboardInterrupt):
        run_scenario(small_scenario(), None, out)
    assert (out / "cases.csv").read_bytes() == whole
    assert not (out / "report.json").exists()


def test_a_finished_run_is_not_run_again(finished: tuple[Path, Report]) -> None:
    out, report = finished
    before = len(read_audit(open_store(out / "sites" / "hospital-a")))
    again = run_scenario(small_scenario(), None, out)
    assert again.segmenter == report.segmenter
    assert len(read_audit(open_store(out / "sites" / "hospital-a"))) == before


def test_another_seed_is_refused_in_the_same_folder(finished: tuple[Path, Report]) -> None:
    with pytest.raises(SettingsError, match=r"another plan.*give this one another name or folder"):
        run_scenario(small_scenario().with_seed(7), None, finished[0])


def test_nothing_of_a_scan_is_sent(finished: tuple[Path, Report]) -> None:
    out, _ = finished
    sent = [
        json.loads(row.details)
        for row in read_audit(open_store(out / "sites" / "hospital-a"))
        if row.event == "sending"
    ]
    assert len(sent) >= 4
    for message in sent:
        assert all(name.startswith(("segmenter/", "student/")) for name in message["tensors"])
        assert "phantom" not in json.dumps(message)
        assert "scan-" not in json.dumps(message)


@pytest.mark.timeout(400)
def test_a_run_killed_at_any_moment_resumes_to_the_same_bits(
    finished: tuple[Path, Report], tmp_path: Path
) -> None:
    scenario = small_scenario()
    command, out = command_line(scenario, tmp_path), tmp_path / "out"
    # In turn: while scans are taken in, in the middle of round 1, between rounds, at random.
    moments = ("sites/hospital-b/catalog.sqlite", "sites/hospital-a/rounds/*/00001*.reply",
               "checkpoints/round-00002", "sites/hospital-b/rounds/*/00003*.reply")  # fmt: skip
    for moment in moments:
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 90
        while not list(out.glob(moment)):
            assert process.poll() is None, f"the run ended before {moment}"
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_bits(final_arrays(out, scenario), final_arrays(finished[0], scenario))


def test_hospitals_that_misbehave_are_named_and_change_nothing(tmp_path: Path) -> None:
    scenario = small_scenario(6)
    limits = scenario.plan.limits.model_copy(update={"deadline_s": 2.0, "join_deadline_s": 1.0})
    plan = scenario.plan.model_copy(update={"limits": limits})
    stores = prepare(scenario, None, tmp_path, no_progress).stores
    kinds = dict(zip(scenario.sites[2:], ("nan", "shape", "raises", "silent"), strict=True))
    faults = tuple(Fault.model_validate({"site": s, "kind": k}) for s, k in kinds.items())
    shutil.copytree(tmp_path / "sites", tmp_path / "twins")

    everyone = {name: store.folder for name, store in stores.items()}
    honest = {name: tmp_path / "twins" / name for name in scenario.sites[:2]}
    with_faults = run_engine(
        "in-process",
        SimulatedFederation(plan, RunFolder(tmp_path / "with"), everyone, faults),
        lambda _: None,
    )
    without = run_engine(
        "in-process",
        SimulatedFederation(plan, RunFolder(tmp_path / "without"), honest),
        lambda _: None,
    )
    assert_same_bits(with_faults.arrays, without.arrays)
    expected = {"nan": "bad_reply", "shape": "bad_reply", "raises": "failed", "silent": "silent"}
    for record in with_faults.history:
        assert {one.hospital: one.kind for one in record.dropped} == {
            site: expected[kind] for site, kind in kinds.items()
        }
        assert record.averaged == scenario.sites[:2]


def test_an_empty_hospital_takes_part_with_nothing_and_is_reported(tmp_path: Path) -> None:
    scenario = small_scenario(2)
    stores = prepare(scenario, None, tmp_path, no_progress).stores
    empty = create_store(tmp_path / "empty", "hospital-b")
    folders = {"hospital-a": stores["hospital-a"].folder, "hospital-b": empty.folder}
    state = run_engine(
        "in-process",
        SimulatedFederation(scenario.plan, RunFolder(tmp_path / "out"), folders),
        lambda _: None,
    )
    for record in state.history:
        assert [note.outcome for note in record.notes] == ["trained", "abstained"]
        assert record.averaged == ("hospital-a",)


@pytest.mark.timeout(300)
def test_ray_reaches_the_same_weights(finished: tuple[Path, Report], tmp_path: Path) -> None:
    scenario = small_scenario()
    done = subprocess.run(
        [*command_line(scenario, tmp_path), "--engine", "ray"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    expected = final_arrays(finished[0], scenario)
    assert drift(final_arrays(tmp_path / "out", scenario), expected, scenario.plan) < 0.05


def test_labels_that_the_data_does_not_hold_are_shown_as_a_table(tmp_path: Path) -> None:
    scenario = small_scenario()
    labels = tuple(
        label.model_copy(update={"name": name})
        for label, name in zip(scenario.plan.labels, ("head", "tail"), strict=True)
    )
    tasks = tuple(
        task.model_copy(update={"classes": ("head", "tail")}) for task in scenario.plan.tasks
    )
    data = tmp_path / "data"
    prepare(scenario, None, tmp_path / "made", no_progress)
    shutil.copytree(tmp_path / "made" / "phantoms", data)
    plan = scenario.plan.model_copy(update={"labels": labels, "tasks": tasks})
    changed = scenario.model_copy(update={"plan": plan, "phantoms": None})
    with pytest.raises(LabelDictionaryError, match=r"tail(.|\n)*2  body(.|\n)*-"):
        run_scenario(changed, data, tmp_path / "out")


def test_a_test_scan_that_a_hospital_holds_is_left_out(tmp_path: Path) -> None:
    scenario = small_scenario()
    prepare(scenario, None, tmp_path / "made", no_progress)
    data = tmp_path / "data"
    shutil.copytree(tmp_path / "made" / "phantoms", data)
    for part in ("imagesTr", "labelsTr"):
        train, test = (f"phantom_scanner-1_{number:03d}.nii.gz" for number in (0, 6))
        shutil.copy(data / part / train, data / part / test)
    changed = scenario.model_copy(update={"phantoms": None})
    prepared = prepare(changed, data, tmp_path / "out", no_progress)
    assert prepared.test.left_out == 1
    assert len(prepared.test.scans) == 3
