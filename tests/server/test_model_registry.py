"""What MLflow's registry knows of a federation's releases. The database is a real one."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from scored_rounds import RoundScores, scored_state
from typer.testing import CliRunner

from common.plan import FederationPlan
from server.checkpoints import save_state
from server.cli import app
from server.mlflow_database import open_client
from server.model_registry import crown, register_round
from server.promoted_models import PromotedModels, promote
from server.run_folder import RunFolder
from server.tracking import open_tracker

MakePlan = Callable[..., FederationPlan]
ROLES = ("segmenter", "student")


@pytest.fixture(scope="module")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database as MLflow makes it, which takes seconds."""
    folder = RunFolder(tmp_path_factory.mktemp("database"))
    open_client(folder).search_experiments()
    return folder.tracking_database


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    """Stages of two rounds and two; nobody may lose more than 0.25."""
    return make_plan((2, 2), release={"most_loss": 0.25})


def _run(path: Path, database: Path, plan: FederationPlan, *dice: float) -> RunFolder:
    """A tracked run with one more round than was scored."""
    folder = RunFolder(path)
    folder.keep_plan(plan)
    shutil.copy(database, folder.tracking_database)
    scores: list[RoundScores] = [{"north": {"task1": one}} for one in dice]
    with open_tracker(plan, folder) as tracker:
        for number in range(1, len(scores) + 2):
            state = scored_state(plan, scores[: number - 1], closed=False)
            save_state(folder.checkpoints, state, plan)
            tracker.log_state(state)
    return folder


def _aliases(folder: RunFolder, role: str) -> dict[str, str]:
    """Which round an alias of a model stands at."""
    client = open_client(folder)
    name = f"{folder.read_plan().federation}.{role}"
    aliases = client.get_registered_model(name).aliases
    return {
        alias: client.get_model_version(name, version).tags["round"]
        for alias, version in aliases.items()
    }


def _promote(folder: RunFolder, number: int | None = None, *, force: bool = False) -> str:
    return crown(folder, promote(folder, number, despite_losses=force))


def test_a_stage_that_ended_is_the_candidate_and_no_champion(
    tmp_path: Path, empty_database: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path / "run", empty_database, plan, 0.5, 0.5, 0.5)
    client = open_client(folder)
    for role in ROLES:
        assert _aliases(folder, role) == {"candidate": "4"}
        name = f"{plan.federation}.{role}"
        first, second = sorted(
            client.search_model_versions(f"name = '{name}'"), key=lambda one: int(one.version)
        )
        assert (first.tags["round"], second.tags["round"]) == ("2", "4")
        assert first.tags["federation"] == plan.federation
        kept = Path(first.source.removeprefix("file://")) / "models.safetensors"
        assert (
            kept.read_bytes()
            == (folder.checkpoints / "round-00002" / "models.safetensors").read_bytes()
        )


def test_only_a_promotion_moves_the_champion(
    tmp_path: Path, empty_database: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path / "run", empty_database, plan, 1.0, 1.0, 0.25)
    # Round 2 ended a stage, and is promoted; it is no second version.
    assert _promote(folder) == (
        f"champion in MLflow: {plan.federation}.segmenter version 1 and "
        f"{plan.federation}.student version 1"
    )
    for role in ROLES:
        assert _aliases(folder, role) == {"candidate": "4", "champion": "2"}
    # Round 3 lost 0.75, and is between two stages.
    assert "segmenter version 3" in _promote(folder, 3, force=True)
    client = open_client(folder)
    for role in ROLES:
        assert _aliases(folder, role) == {"candidate": "4", "champion": "3"}
        name = f"{plan.federation}.{role}"
        forced = client.get_model_version_by_alias(name, "champion").tags
        assert forced["promotion"] == "despite losses"
        assert forced["despite"].startswith("north lost 0.750 on task1")
        passed = client.get_model_version(name, "1").tags
        assert passed["promotion"] == "passed the gate"
        assert "despite" not in passed
    # Back to the one before: nothing new is registered.
    _promote(folder, 2)
    for role in ROLES:
        assert _aliases(folder, role) == {"candidate": "4", "champion": "2"}
        found = client.search_model_versions(f"name = '{plan.federation}.{role}'")
        assert len(found) == 3


def test_federations_that_share_a_database_do_not_meet(
    tmp_path: Path, empty_database: Path, plan: FederationPlan, make_plan: MakePlan
) -> None:
    first = _run(tmp_path / "first", empty_database, plan, 1.0)
    other = make_plan((2, 2), seed=1)
    second = _run(tmp_path / "second", first.tracking_database, other, 1.0)
    _promote(second)
    names = {one.name for one in open_client(second).search_registered_models()}
    assert names == {f"{one.federation}.{role}" for one in (plan, other) for role in ROLES}


def test_self_learning_registers_nothing(
    tmp_path: Path, empty_database: Path, make_plan: MakePlan
) -> None:
    plan = make_plan(
        (2,), correspondence={"rounds": 1}, propagation={"candidates": ["correspondence"]}
    )
    folder = _run(tmp_path / "run", empty_database, plan)
    assert open_client(folder).search_registered_models() == []


def test_a_student_that_is_not_trained_is_no_model(
    tmp_path: Path, empty_database: Path, make_plan: MakePlan
) -> None:
    training = {"patch_size": [4, 4, 4], "student_steps_per_round": 0}
    plan = make_plan((2, 2), training=training)
    folder = _run(tmp_path / "run", empty_database, plan, 1.0)
    assert _promote(folder) == f"champion in MLflow: {plan.federation}.segmenter version 1"
    (model,) = open_client(folder).search_registered_models()
    assert model.name == f"{plan.federation}.segmenter"


def test_an_environment_variable_does_not_lead_elsewhere(
    tmp_path: Path, empty_database: Path, plan: FederationPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:////nowhere/other.db")
    folder = _run(tmp_path / "run", empty_database, plan, 1.0)
    assert _aliases(folder, "student") == {"candidate": "2"}


def test_models_that_changed_are_another_version(
    tmp_path: Path, empty_database: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path / "run", empty_database, plan, 1.0)
    path = folder.checkpoints / "round-00001" / "models.safetensors"
    found = register_round(open_client(folder), plan, 2, path, "file:///there")
    assert {str(one.version) for one in found.values()} == {"2"}


def _damage(path: Path) -> None:
    path.write_bytes(b"no SQL" * 99)


@pytest.mark.parametrize("obstacle", [os.remove, _damage])
def test_a_registry_that_fails_costs_no_promotion_and_is_told(
    tmp_path: Path,
    empty_database: Path,
    plan: FederationPlan,
    obstacle: Callable[[Path], None],
) -> None:
    folder = _run(tmp_path / "run", empty_database, plan, 1.0)
    obstacle(folder.tracking_database)
    done = CliRunner().invoke(app, ["promote", str(folder.path)])
    assert done.exit_code == 0, done.output
    why = "not told, run the command again" if obstacle is _damage else "told: there is no "
    assert f"registry was {why}" in done.stdout
    assert (folder.promoted / "round-00001" / "card.json").exists()
    assert folder.tracking_database.exists() == (obstacle is _damage)


def test_the_command_prints_what_the_registry_was_told(
    tmp_path: Path, empty_database: Path, plan: FederationPlan
) -> None:
    folder = _run(tmp_path / "run", empty_database, plan, 1.0)
    done = CliRunner().invoke(app, ["promote", str(folder.path), "--format", "json"])
    told = PromotedModels.model_validate_json(done.stdout)
    assert told.registry.startswith(f"champion in MLflow: {plan.federation}.segmenter version 2")
