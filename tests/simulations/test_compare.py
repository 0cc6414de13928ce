"""A comparison on tiny phantoms: what its rows are, that it goes on, that a failure is named."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import pytest
import tomli_w
import torch
from small_scenario import small_scenario

from common.errors import SettingsError
from common.plan import Task
from server.report import Report
from simulations.arms import ARMS
from simulations.cli import run as simulate
from simulations.compare import CompareSettings, Comparison, compare
from simulations.compare_run import Row, mean_accuracy, mean_dice, read_cases, task_dice
from simulations.run import run_scenario
from simulations.scenario import Scenario

pytestmark = [
    # MLflow's first use of a database tells of its own deprecated calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parent.parent.parent),
    "OMP_NUM_THREADS": "1",
}
TWO_ARMS = CompareSettings(arms=("no-replay",), seeds=2, orders=("given",), rounds=1)
MORE_ARMS = CompareSettings(
    arms=("local-only", "centralised"), seeds=1, orders=("given",), rounds=1
)
SEEDS = ("--seeds", "2", "--orders", "given")
OTHERS = shutil.ignore_patterns("joint", "local-only", "central*", "*-reversed")
BOTH_ORDERS = CompareSettings(arms=("joint",), seeds=1, rounds=1)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the processes that the tests start have: another number changes the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def compared(folder: Path) -> Comparison:
    return compare(small_scenario(), None, folder, TWO_ARMS)


@pytest.fixture(scope="module")
def in_both_orders(folder: Path, compared: Comparison) -> Comparison:
    return compare(small_scenario(), None, folder, BOTH_ORDERS)


@pytest.fixture(scope="module")
def with_more(folder: Path, compared: Comparison) -> Comparison:
    return compare(small_scenario(), None, folder, MORE_ARMS)


def keys(comparison: Comparison) -> list[tuple[str, int, str]]:
    return [(row.arm, row.seed, row.order) for row in comparison.rows]


def report_of(folder: Path, run: str) -> Report:
    return Report.model_validate_json((folder / run / "report.json").read_text())


def row_of(comparison: Comparison, arm: str, seed: int = 0, order: str = "given") -> Row:
    return next(
        row for row in comparison.rows if (row.arm, row.seed, row.order) == (arm, seed, order)
    )


def command_line(folder: Path, *options: str) -> list[str]:
    settings = folder / "small.toml"
    scenario = small_scenario().model_dump(mode="json", exclude_none=True)
    settings.write_text(tomli_w.dumps(scenario))
    oneslice = [sys.executable, "-m", "oneslice", "simulate", "compare", str(settings)]
    return [
        *oneslice,
        "--out",
        str(folder / "out"),
        "--arms",
        "no-replay",
        "--rounds",
        "1",
        *options,
    ]


def test_every_arm_has_a_row_for_each_seed_and_order(
    compared: Comparison, in_both_orders: Comparison
) -> None:
    assert keys(compared) == [
        (arm, seed, "given") for arm in ("as-is", "no-replay") for seed in (0, 1)
    ]
    assert keys(in_both_orders) == [
        (arm, 0, order) for arm in ("as-is", "joint") for order in ("given", "reversed")
    ]
    assert compared.failures == in_both_orders.failures == ()
    assert all(len(row.cases) == 4 for row in compared.rows)
    assert len({row.mean_dice for row in (*compared.rows, *in_both_orders.rows[:2])}) == 5


def test_as_it_is_is_the_scenario_as_it_is(compared: Comparison, tmp_path: Path) -> None:
    values = small_scenario().model_dump()
    for task in values["plan"]["tasks"]:
        task["rounds"] = 1
    report = run_scenario(Scenario.model_validate(values), None, tmp_path)
    row = row_of(compared, "as-is")
    assert report.segmenter is not None
    assert report.continual is not None
    assert row.mean_dice == report.segmenter.mean_dice
    assert (row.bwt, row.forgetting) == (report.continual.bwt, report.continual.forgetting)
    # The comparison takes it from cases.csv, for arms with other tasks as well.
    assert row.acc == pytest.approx(report.continual.acc)
    assert row.fraction_of_slices == report.annotation.fraction_of_slices


def test_the_tasks_of_a_reversed_run_come_in_the_other_order(
    in_both_orders: Comparison, folder: Path
) -> None:
    given, backwards = (
        report_of(folder, f"as-is/seed-0-{order}").continual for order in ("given", "reversed")
    )
    assert given is not None
    assert backwards is not None
    assert given.tasks == backwards.tasks[::-1] == ("scanner-1", "scanner-2")


def test_hospitals_alone_are_the_hospitals_alone_of_a_run(
    with_more: Comparison, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "as-is" / "seed-0-given", tmp_path / "run")
    report = run_scenario(
        Scenario.model_validate_json((tmp_path / "run" / "scenario.json").read_text()),
        folder / "scans" / "seed-0" / "phantoms",
        tmp_path / "run",
        local_only=True,
    )
    alone = [one.mean_dice for one in report.local_only if one.mean_dice is not None]
    assert row_of(with_more, "local-only").mean_dice == pytest.approx(mean(alone))
    assert len(alone) == 2


def test_one_hospital_with_everything_has_all_scans(with_more: Comparison, folder: Path) -> None:
    report = report_of(folder, "centralised/seed-0-given")
    # 2 hospitals x 2 tasks x 3 scans.
    assert [(site.name, site.scans) for site in report.sites] == [("everybody", 12)]
    assert row_of(with_more, "centralised").bwt is not None


def test_joint_training_is_run_once_for_both_orders(
    in_both_orders: Comparison, folder: Path
) -> None:
    report = report_of(folder, "joint/seed-0-given")
    assert report.continual is not None
    assert report.continual.tasks == ("joint",)
    assert [site.scans for site in report.sites] == [6, 6]
    given, backwards = (
        row_of(in_both_orders, "joint", order=order) for order in ("given", "reversed")
    )
    assert given.model_dump(exclude={"order"}) == backwards.model_dump(exclude={"order"})
    assert given.bwt is None
    assert given.acc is not None
    assert not (folder / "joint" / "seed-0-reversed").exists()


def test_more_arms_run_nothing_again(
    compared: Comparison, with_more: Comparison, folder: Path
) -> None:
    assert row_of(with_more, "as-is") == row_of(compared, "as-is")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    again = compare(small_scenario(), None, folder, MORE_ARMS)
    assert again.rows == with_more.rows
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_another_length_or_scenario_is_refused(compared: Comparison, folder: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"different in scenario\.plan\.tasks\[0\]\.rounds \(1 there, 2 here\)"
    ):
        compare(small_scenario(), None, folder, CompareSettings(rounds=2))
    with pytest.raises(SettingsError, match=r"seed \(0 there, 3 here\).*or another --out"):
        compare(small_scenario().with_seed(3), None, folder, TWO_ARMS)


def test_nothing_is_kept_of_a_comparison_that_cannot_start(tmp_path: Path) -> None:
    scenario = small_scenario().model_copy(update={"phantoms": None})
    with pytest.raises(SettingsError, match="needs scans: give --data"):
        compare(scenario, None, tmp_path, TWO_ARMS)
    with pytest.raises(SettingsError, match="draws its own phantoms: leave --data out"):
        compare(small_scenario(), tmp_path, tmp_path, TWO_ARMS)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_is_named_and_the_others_go_on(
    compared: Comparison, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out, ignore=OTHERS)
    # Somebody put another run where this one should be.
    shutil.rmtree(out / "no-replay" / "seed-1-given")
    shutil.copytree(out / "as-is" / "seed-1-given", out / "no-replay" / "seed-1-given")
    command = command_line(tmp_path, *SEEDS, "--json", str(tmp_path / "rows.json"))
    with pytest.raises(SystemExit) as ended:
        simulate(command[command.index("compare") :], "oneslice simulate")
    assert ended.value.code == 1
    written = json.loads((tmp_path / "rows.json").read_text())
    (failed,) = written["failed"]
    assert (failed["arm"], failed["seed"], failed["order"]) == ("no-replay", 1, "given")
    assert "holds a run of another plan" in failed["reason"]
    assert len(written["rows"]) == 3
    # Its partner has nobody to be compared with.
    assert [test["runs"] for test in written["tests"]] == [1]
    assert "failed: no-replay, seed 1, given order: " in capsys.readouterr().out


def test_a_comparison_killed_at_any_moment_goes_on_to_the_same_rows(
    compared: Comparison, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder, out, ignore=OTHERS)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/*/report.json")}
    assert len(finished) == 4
    # In turn: in the middle of the second of four runs, and while the last takes in its scans.
    moments = {
        "as-is/seed-1-given": "checkpoints/round-00001",
        "no-replay/seed-1-given": "sites/hospital-b/catalog.sqlite",
    }
    for run in moments:
        shutil.rmtree(out / run)
        del finished[out / run / "report.json"]
    command = command_line(tmp_path, *SEEDS, "--json", str(tmp_path / "rows.json"))
    for run, moment in moments.items():
        process = subprocess.Popen(
            command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 120
        while not (out / run / moment).exists():
            assert process.poll() is None, f"it ended before {run} had {moment}"
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / run / "report.json").exists()
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert finished == {path: path.stat().st_mtime_ns for path in finished}
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    expected = [row.model_dump(exclude={"cases", "patients", "seconds"}) for row in compared.rows]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in rows] == expected


def test_runs_at_once_reach_the_same_rows(compared: Comparison, tmp_path: Path) -> None:
    command = command_line(
        tmp_path, "--seeds", "1", "--orders", "given", "--parallel", "2", "--format", "json"
    )
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    rows = json.loads(done.stdout)["rows"]
    assert [(row["arm"], row["mean_dice"]) for row in rows] == [
        (arm, row_of(compared, arm).mean_dice) for arm in ("as-is", "no-replay")
    ]


def test_the_means_of_scans_tasks_and_classes_by_hand() -> None:
    cases = {"a": {"head": 0.8, "body": 0.4}, "b": {"head": 0.6}, "c": {"body": 0.1}}
    # head: 0.7, body: 0.25.
    assert mean_dice(cases) == pytest.approx(0.475)
    look = {"modality": "MR", "plane": "axial", "rounds": 1}
    both = Task.model_validate({"name": "both", "classes": ["head", "body"], **look})
    head = Task.model_validate({"name": "head", "classes": ["head"], **look})
    # 0.6 of a, 0.6 of b; d is no test scan that was scored.
    assert task_dice(cases, both, ["a", "b", "d"]) == pytest.approx(0.6)
    # c shows no head: it is left out.
    assert task_dice(cases, head, ["a", "b", "c"]) == pytest.approx(0.7)
    assert task_dice(cases, head, ["c"]) is None
    tasks = [(both, ["a", "b"]), (head, ["a"]), (head, ["c"])]
    assert mean_accuracy(cases, tasks) == pytest.approx((0.6 + 0.8) / 2)


def test_only_the_segmenters_cases_are_read(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(
        "model,case,structure,dice,hd95,missed\n"
        "segmenter,a,head,0.5,1.0,False\n"
        "segmenter,a,body,0.0,,True\n"
        "student,a,head,0.9,1.0,False\n"
    )
    assert read_cases(path) == {"a": {"head": 0.5, "body": 0.0}}


def test_the_list_says_what_each_arm_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        simulate(["compare", "phantoms", "--list"], "oneslice simulate")
    listed = capsys.readouterr().out
    assert all(arm.name in listed and arm.what in listed for arm in ARMS)
