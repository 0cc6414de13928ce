"""A stream whose later slices are chosen by what the federation has learned."""

from pathlib import Path

import pytest
from small_scenario import small_scenario

from client.store.annotations import latest_annotations
from client.store.doubts import find_doubts
from client.store.scans import list_scans
from client.store.store import open_store
from server.round_state import RoundState
from simulations.progress import no_progress
from simulations.run import run_scenario
from simulations.scenario import Scenario


def doubting() -> Scenario:
    scenario = small_scenario(annotation={"slice_choice": "doubt"})
    first, second = scenario.plan.tasks
    # The second scanner shows what the first one did.
    tasks = (first, second.model_copy(update={"classes": first.classes}))
    return scenario.model_copy(update={"plan": scenario.plan.model_copy(update={"tasks": tasks})})


def painted_slices(run: Path, scenario: Scenario) -> dict[str, list[int]]:
    return {
        scan.scan_id: [one.ref.index for one in latest_annotations(store, scan.scan_id)]
        for site in scenario.sites
        for store in [open_store(run / "sites" / site)]
        for scan in list_scans(store)
    }


class _Killed(BaseException):
    """The end of the process."""


def test_every_scan_is_painted_once_and_a_killed_run_paints_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scenario = doubting()
    report = run_scenario(scenario, None, tmp_path / "steady")
    painted = painted_slices(tmp_path / "steady", scenario)
    assert all(len(slices) == 1 for slices in painted.values())
    assert report.annotation.slices == len(painted)
    assert [record.averaged for record in _history(tmp_path / "steady")] == [scenario.sites] * 4

    from simulations import run as run_module

    def kill_in_the_second_stage(*_: object) -> object:
        def on_round(state: RoundState) -> None:
            if state.round == 3:
                raise _Killed

        return on_round

    with monkeypatch.context() as patched:
        patched.setattr(run_module, "show_rounds", kill_in_the_second_stage)
        with pytest.raises(_Killed):
            run_scenario(scenario, None, tmp_path / "killed")
    resumed = run_scenario(scenario, None, tmp_path / "killed", progress=no_progress)
    assert painted_slices(tmp_path / "killed", scenario) == painted
    assert resumed.segmenter == report.segmenter


def test_the_second_task_was_looked_at_by_the_first_stages_segmenter(tmp_path: Path) -> None:
    scenario = doubting()
    run_scenario(scenario, None, tmp_path)
    for site in scenario.sites:
        store = open_store(tmp_path / "sites" / site)
        first, second = (
            [scan.scan_id for scan in list_scans(store, task.name)] for task in scenario.plan.tasks
        )
        assert find_doubts(store, first) == {}
        noted = find_doubts(store, second)
        assert set(noted) == {one for one in second if not scenario.plan.is_held_back(one)}
        assert {doubt.round for doubt in noted.values()} == {3}


def _history(run: Path) -> list:  # type: ignore[type-arg]
    from server.checkpoints import load_state
    from server.run_folder import RunFolder

    state = load_state(RunFolder(run).checkpoints, doubting().plan)
    assert state is not None
    return list(state.history)
