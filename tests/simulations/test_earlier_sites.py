"""A simulated federation that goes on from another one beside it."""

from pathlib import Path

import pytest
from small_scenario import small_scenario

from client.store.rounds import load_state
from client.store.scans import list_scans
from client.store.store import open_store
from common.errors import SettingsError
from server.checkpoints import load_state as load_run
from server.run_folder import RunFolder
from simulations.run import run_scenario
from simulations.scenario import Scenario

pytestmark = [
    # MLflow's first use of a database tells of its own deprecated calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]


def first_stage() -> Scenario:
    whole = small_scenario().model_dump()
    plan = {**whole["plan"], "tasks": whole["plan"]["tasks"][:1]}
    return Scenario.model_validate({**whole, "deals": whole["deals"][:1], "plan": plan})


def test_it_takes_over_models_and_hospitals_and_leaves_the_earlier_run_alone(
    tmp_path: Path,
) -> None:
    before = first_stage()
    run_scenario(before, None, tmp_path / "before")
    extends = {"federation": before.plan.federation, "round": 2}
    after = small_scenario(extends=extends)
    store = open_store(tmp_path / "before" / "sites" / "hospital-a")
    scans = len(list_scans(store))

    report = run_scenario(after, None, tmp_path / "after")
    # Both stages are told of, and the first is the one that the earlier run ended with.
    assert report.continual is not None
    assert [len(row) for row in report.continual.dice_matrix] == [2, 2]
    assert report.communication.rounds == 4
    state = load_run(RunFolder(tmp_path / "after").checkpoints, after.plan)
    assert state is not None
    notes = [note for note in state.history[2].notes if note.hospital == "hospital-a"]
    assert [(note.outcome, note.used > 0, note.replayed > 0) for note in notes] == [
        ("trained", True, True)
    ]
    assert len(list_scans(store)) == scans
    assert load_state(store, after.plan.federation, 4).tasks_trained == {}


def test_without_the_earlier_run_beside_it_nothing_begins(tmp_path: Path) -> None:
    extends = {"federation": "small-01234567", "round": 2}
    with pytest.raises(
        SettingsError, match=r"no run in .* is of that federation \(there are: none"
    ):
        run_scenario(small_scenario(extends=extends), None, tmp_path / "after")
    assert not (tmp_path / "after").exists()
