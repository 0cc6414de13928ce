"""The ServerApp as Flower starts it: from a run config to a finished run's folder."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_hospitals import FakeHospitals
from flwr.app import Context, RecordDict

from common.errors import CheckpointError, QuorumError, SettingsError
from common.plan import FederationPlan
from common.quiet import QUIET
from server.app import app, make_server_app
from server.checkpoints import load_state
from server.progress import read_progress
from server.round_state import RoundState
from server.run_folder import RunFolder

# MLflow's tables on SQLAlchemy 2.1.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")
MakePlan = Callable[..., FederationPlan]
NAMES = {1: "north", 2: "south"}


@pytest.fixture(autouse=True)
def _environment_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in QUIET:
        monkeypatch.setenv(name, "as before")


def _context(**run_config: str) -> Context:
    return Context(
        run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )


def test_a_run_named_by_flowers_run_config(tmp_path: Path, make_plan: MakePlan) -> None:
    plan = make_plan(limits={"hospitals": 2})
    RunFolder(tmp_path / "given").keep_plan(plan)
    folder = RunFolder(tmp_path / "run")
    hospitals = FakeHospitals(NAMES)
    context = _context(plan=str(tmp_path / "given" / "plan.toml"), out=str(folder.path))
    app(hospitals.grid(), context)
    assert folder.read_plan() == plan
    state = load_state(folder.checkpoints, plan)
    assert state is not None
    assert (state.round, state.closing is not None) == (3, True)
    assert folder.tracking_database.exists()
    assert {name: os.environ[name] for name in QUIET} == QUIET, "nobody is phoned"


def test_every_saved_round_is_told(tmp_path: Path, make_plan: MakePlan) -> None:
    plan, told = make_plan(limits={"hospitals": 2}), list[tuple[int, bool]]()

    def on_round(state: RoundState) -> None:
        told.append((state.round, state.closing is not None))

    (tmp_path / "mlflow.db").mkdir()  # and nothing is lost without MLflow
    server_app = make_server_app(lambda _: (plan, RunFolder(tmp_path)), on_round)
    server_app(FakeHospitals(NAMES).grid(), _context())
    assert told == [(1, False), (2, False), (3, False), (3, True)]


def test_a_server_tells_its_progress_and_keeps_its_log(
    tmp_path: Path, make_plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="flwr")  # an engine in another test may have made it quieter
    plan, folder = make_plan(limits={"hospitals": 2}), RunFolder(tmp_path / "run")
    server_app = make_server_app(lambda _: (plan, folder))
    server_app(FakeHospitals(NAMES).grid(), _context())
    found = read_progress(folder.progress_file)
    assert found is not None
    assert (found.federation, found.run_id, found.rounds) == (plan.federation, "1", 3)
    assert (found.phase, found.round) == ("finished", 3)
    assert "configure_train: Sampled 2 nodes" in folder.server_log.read_text()


def test_a_second_server_asks_nobody_and_leaves_the_first_ones_progress(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    folder, hospitals = RunFolder(tmp_path), FakeHospitals(NAMES)
    server_app = make_server_app(lambda _: (make_plan(), folder))
    with (
        folder.only_server(),
        pytest.raises(CheckpointError, match="another one does"),
    ):
        server_app(hospitals.grid(), _context())
    assert hospitals.asked == []
    assert not folder.progress_file.exists()


def test_why_a_server_ended_stands_in_its_progress_and_log(
    tmp_path: Path, make_plan: MakePlan
) -> None:
    plan, folder = make_plan(), RunFolder(tmp_path)
    server_app = make_server_app(lambda _: (plan, folder))
    with pytest.raises(QuorumError, match="0 joined"):
        server_app(FakeHospitals({}).grid(), _context())
    found = read_progress(folder.progress_file)
    assert found is not None
    assert found.phase == "failed"
    assert "0 joined within 0.2 s" in found.sentence
    assert "QuorumError" in folder.server_log.read_text()


def test_another_plan_in_the_same_folder_asks_nobody(tmp_path: Path, make_plan: MakePlan) -> None:
    RunFolder(tmp_path).keep_plan(make_plan(seed=1))
    hospitals = FakeHospitals(NAMES)
    server_app = make_server_app(lambda _: (make_plan(), RunFolder(tmp_path)))
    with pytest.raises(SettingsError, match="holds a run of another plan"):
        server_app(hospitals.grid(), _context())
    assert hospitals.asked == []


@pytest.mark.parametrize(("plan", "message"), [("", "cannot be read"), ("none.toml", "found none")])
def test_a_plan_that_is_not_there_is_named(tmp_path: Path, plan: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        app(FakeHospitals(NAMES).grid(), _context(plan=plan, out=str(tmp_path)))
