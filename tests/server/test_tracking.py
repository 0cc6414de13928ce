"""What MLflow holds after a run, and that it can cost no round. The database is a real one."""

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scored_rounds import scored_state

from common.plan import FederationPlan
from common.updates import Note, TaskScore
from server.checkpoints import save_state
from server.round_state import Dropped, RoundRecord, RoundState
from server.run_folder import RunFolder
from server.tracking import CarefulTracker, attach_report, open_tracker, round_metrics

# MLflow's tables on SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
MakePlan = Callable[..., FederationPlan]
MakeState = Callable[..., RoundState]


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it, which takes seconds."""
    from mlflow import MlflowClient

    folder = RunFolder(tmp_path_factory.mktemp("database"))
    MlflowClient(tracking_uri=folder.tracking_uri).search_experiments()
    return folder.tracking_database


@pytest.fixture
def new_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: FederationPlan) -> RunFolder:
    """A run's folder with a space in its name, and an empty working directory beside it."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    folder = RunFolder(tmp_path / "a run")
    folder.keep_plan(plan)
    return folder


@pytest.fixture
def folder(new_folder: RunFolder, empty_database: Path) -> RunFolder:
    """The same with an empty database."""
    shutil.copy(empty_database, new_folder.tracking_database)
    return new_folder


def _note(hospital: str, task: str, dice: dict[str, float], loss: float | None = None) -> Note:
    score = TaskScore(task=task, dice=dice, cases=1, missed=0)
    return Note(hospital=hospital, outcome="trained", round=1, scores=(score,), loss=loss)


def test_the_metrics_of_a_round_by_hand() -> None:
    record = RoundRecord(
        round=1,
        stage=0,
        notes=(
            _note("north", "liver", {"left": 0.5, "right": 1.0}, loss=0.25),
            _note("south", "liver", {"left": 0.25}),
            _note("west", "liver", {}),
        ),
        averaged=("north", "south"),
        dropped=(Dropped(hospital="east", reason="", kind="silent"),),
        seconds={"wait": 3.0, "aggregate": 0.5},
    )
    assert round_metrics(record) == {
        "hospitals/averaged": 2,
        "hospitals/dropped": 1,
        "seconds/wait": 3.0,
        "seconds/aggregate": 0.5,
        "loss/north": 0.25,
        "dice/liver/north": 0.75,
        "dice/liver/south": 0.25,
        "dice/liver/mean": 0.5,
    }


def test_what_clipping_and_noise_tell_is_tracked() -> None:
    record = RoundRecord(round=1, stage=0, update_norms={"north": 2.5}, epsilon=4.5)
    metrics = round_metrics(record)
    assert (metrics["update_norm/north"], metrics["epsilon"]) == (2.5, 4.5)
    assert "epsilon" not in round_metrics(RoundRecord(round=1, stage=0))


def test_the_loss_of_self_learning_has_a_name_of_its_own() -> None:
    note = Note(hospital="north", outcome="self_learned", round=1, num_examples=3, loss=0.25)
    record = RoundRecord(round=1, stage=0, notes=(note,), averaged=("north",))
    metrics = round_metrics(record)
    assert metrics["self_learning_loss/north"] == 0.25
    assert "loss/north" not in metrics


def test_self_learning_is_a_run_before_the_first_stage(
    folder: RunFolder, make_plan: MakePlan, make_state: MakeState
) -> None:
    # Round 1 is self-learning, then stages of one round each.
    plan = make_plan(
        rounds=(1, 1),
        correspondence={"rounds": 1},
        propagation={"candidates": ["correspondence"]},
    )
    folder.plan_file.unlink()
    folder.keep_plan(plan)
    states = []
    for number in (1, 2, 3):
        state = make_state(number)
        stages = [record.model_copy(update={"stage": max(record.round - 2, 0)})
                  for record in state.history]  # fmt: skip
        states.append(replace(state, history=tuple(stages)))
    _track(folder, plan, states)
    (start,), stage_runs = _runs(folder, plan)
    names = ["stage 0: self-learning", "stage 1: task1", "stage 2: task2"]
    assert [run.info.run_name for run in stage_runs] == names
    assert start.data.params["correspondence.rounds"] == "1"
    for run, number in zip(stage_runs, (1, 2, 3), strict=True):
        kept = folder.artifacts / run.info.run_id / "artifacts" / "models" / "models.safetensors"
        saved = folder.checkpoints / f"round-{number:05d}" / "models.safetensors"
        assert kept.read_bytes() == saved.read_bytes()


def _track(folder: RunFolder, plan: FederationPlan, states: list[RoundState]) -> None:
    with open_tracker(plan, folder) as tracker:
        for state in states:
            save_state(folder.checkpoints, state, plan)
            tracker.log_state(state)
    folder.report_json.write_text("{}")
    folder.report_html.write_text("<p>")
    attach_report(plan, folder)


def test_a_run_is_tracked_below_its_folder_and_nowhere_else(
    new_folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    states = [*map(make_state, (1, 2, 3)), make_state(3, closed=True)]
    _track(new_folder, plan, states)
    _track(new_folder, plan, [])  # started again
    starts, stages = _runs(new_folder, plan)
    artifacts = new_folder.artifacts
    found = {str(path.relative_to(artifacts)) for path in artifacts.rglob("*.*")}
    assert found == {
        *(f"{run.info.run_id}/artifacts/plan.toml" for run in starts),
        *(f"{run.info.run_id}/artifacts/report.json" for run in starts),
        *(f"{run.info.run_id}/artifacts/report.html" for run in starts),
        *(f"{run.info.run_id}/artifacts/models/models.safetensors" for run in stages),
    }
    for run, number in zip(stages, (2, 3), strict=True):
        kept = artifacts / run.info.run_id / "artifacts" / "models" / "models.safetensors"
        saved = new_folder.checkpoints / f"round-{number:05d}" / "models.safetensors"
        assert kept.read_bytes() == saved.read_bytes()
    assert list(Path.cwd().iterdir()) == []


def _runs(folder: RunFolder, plan: FederationPlan) -> tuple[list[Any], list[Any]]:
    """The runs of the only experiment: one per start, the latest first, and one per stage."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=folder.tracking_uri)
    (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
    assert experiment.name == plan.federation
    runs = client.search_runs([experiment.experiment_id])
    starts = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    stages = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    return starts, sorted(stages, key=lambda run: run.info.run_name)


def test_one_run_per_start_and_one_per_stage_below_it(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    from mlflow import MlflowClient

    _track(folder, plan, [*map(make_state, (1, 2, 3)), make_state(3, closed=True)])
    _track(folder, plan, [])
    starts, stages = _runs(folder, plan)
    assert {run.info.status for run in (*starts, *stages)} == {"FINISHED"}
    assert len(starts) == 2
    (start,) = [run for run in starts if run.data.metrics]
    assert [run.info.run_name for run in stages] == ["stage 1: task1", "stage 2: task2"]
    assert {run.data.tags["mlflow.parentRunId"] for run in stages} == {start.info.run_id}
    assert (start.data.params["seed"], start.data.params["tasks"]) == ("0", "task1, task2")
    assert start.data.params["training.patch_size"] == "(4, 4, 4)"
    client = MlflowClient(tracking_uri=folder.tracking_uri)

    def points(run: Any, name: str) -> set[tuple[int, float]]:
        history = client.get_metric_history(run.info.run_id, name)
        return {(one.step, one.value) for one in history}

    # The closing scores, of the models that the last round made, stand one step after it.
    losses = [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 1 / 3)]
    assert points(start, "loss/north") == set(losses)
    assert points(start, "dice/task1/mean") == {(1, 0.25), (2, 0.5), (3, 0.75), (4, 0.75)}
    assert points(stages[0], "loss/south") == set(losses[:2])
    assert points(stages[1], "loss/south") == set(losses[2:])


def test_the_promoted_round_is_a_tag_of_a_plan_with_a_gate(
    folder: RunFolder, make_plan: MakePlan
) -> None:
    gated = make_plan((2,), release={"most_loss": 0.25})
    rounds = [{"a": {"task1": one}} for one in (0.75, 0.25)]
    _track(folder, gated, [scored_state(gated, [{"a": {}}], closed=False)])
    ((start,), _) = _runs(folder, gated)
    assert start.data.tags["promoted_round"] == "none"
    assert start.data.params["release.most_loss"] == "0.25"
    _track(folder, gated, [scored_state(gated, rounds)])
    again = [run for run in _runs(folder, gated)[0] if run.info.run_id != start.info.run_id]
    assert [run.data.tags["promoted_round"] for run in again] == ["1"]


def test_a_plan_without_a_gate_has_no_such_tag(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    _track(folder, plan, [make_state(1)])
    ((start,), _) = _runs(folder, plan)
    assert "promoted_round" not in start.data.tags


def test_a_changed_plan_is_another_experiment(
    folder: RunFolder, plan: FederationPlan, make_plan: MakePlan
) -> None:
    from mlflow import MlflowClient

    for one in (plan, make_plan(seed=1)):
        _track(folder, one, [])
    client = MlflowClient(tracking_uri=folder.tracking_uri)
    names = {one.name for one in client.search_experiments()} - {"Default"}
    assert names == {plan.federation, make_plan(seed=1).federation}


def test_a_run_that_fails_is_marked_as_failed_and_its_error_goes_on(
    folder: RunFolder, plan: FederationPlan, make_state: MakeState
) -> None:
    from mlflow import MlflowClient

    def start_and_stop() -> None:
        with open_tracker(plan, folder) as tracker:
            save_state(folder.checkpoints, make_state(1), plan)
            tracker.log_state(make_state(1))
            raise KeyboardInterrupt("enough")

    with pytest.raises(KeyboardInterrupt, match="enough"):
        start_and_stop()
    client = MlflowClient(tracking_uri=folder.tracking_uri)
    experiment = client.get_experiment_by_name(plan.federation)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FAILED", "FAILED"]


def test_more_metrics_than_mlflow_takes_at_once(
    folder: RunFolder, plan: FederationPlan, caplog: pytest.LogCaptureFixture
) -> None:
    from mlflow import MlflowClient

    notes = tuple(_note(f"h{number}", "task1", {"organ": 0.5}, 0.5) for number in range(600))
    record = RoundRecord(round=1, stage=0, notes=notes)
    with open_tracker(plan, folder) as tracker:
        tracker.log_state(RoundState(1, {}, {}, (record,)))
    assert not [one for one in caplog.records if one.name == "server.tracking"]
    client = MlflowClient(tracking_uri=folder.tracking_uri)
    experiment = client.get_experiment_by_name(plan.federation)
    assert experiment is not None
    for run in client.search_runs([experiment.experiment_id]):
        assert len(run.data.metrics) == 600 * 2 + 3


@pytest.mark.parametrize("obstacle", [Path.mkdir, lambda path: path.write_bytes(b"no SQL" * 99)])
def test_a_database_that_cannot_be_opened_costs_nothing(
    new_folder: RunFolder,
    plan: FederationPlan,
    make_state: MakeState,
    caplog: pytest.LogCaptureFixture,
    obstacle: Callable[[Path], None],
) -> None:
    obstacle(new_folder.tracking_database)
    started = time.monotonic()
    with open_tracker(plan, new_folder) as tracker:
        tracker.log_state(make_state(1))
    assert time.monotonic() - started < 20, "MLflow's own retries would take 100 s"
    (warning,) = [one for one in caplog.records if one.name == "server.tracking"]
    assert "MLflow cannot be opened, the federation goes on without it" in warning.getMessage()


def test_a_database_that_fails_midway_costs_nothing(
    folder: RunFolder,
    plan: FederationPlan,
    make_state: MakeState,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_tracker(plan, folder) as tracker:
        tracker.log_state(make_state(1))
        # The models of the stage's end are not there, and neither is the place to put them.
        shutil.rmtree(folder.artifacts)
        folder.artifacts.write_text("a file")
        for number in (2, 3):
            tracker.log_state(make_state(number))
    (warning,) = [one for one in caplog.records if one.name == "server.tracking"]
    assert "tracking stops here, the federation goes on" in warning.getMessage()


def test_no_tracker_tracks_nothing(make_state: MakeState) -> None:
    tracker = CarefulTracker(None)
    tracker.log_state(make_state(1))
    tracker.close("FINISHED")


def test_a_report_without_a_database_costs_nothing(
    new_folder: RunFolder, plan: FederationPlan, caplog: pytest.LogCaptureFixture
) -> None:
    attach_report(plan, new_folder)
    (warning,) = [one for one in caplog.records if one.name == "server.tracking"]
    assert "could not be added to MLflow" in warning.getMessage()
