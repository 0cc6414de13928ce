"""A whole small federation that learns by itself before its first task."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_correspondence import SMALL_CORRESPONDENCE
from small_scenario import small_scenario

from client.store.annotations import latest_annotations
from client.store.audit import read_audit
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.scans import list_scans
from client.store.store import Store, create_store, open_store
from common.updates import trained_in
from server.checkpoints import load_state
from server.report import Report
from server.round_state import RoundState
from server.rounds import first_state
from server.run_folder import RunFolder
from simulations.engines import SimulatedFederation, run_engine
from simulations.external import evaluate_run
from simulations.progress import no_progress
from simulations.run import find_data, prepare, run_scenario
from simulations.scenario import Scenario

pytestmark = [
    # MLflow's first use of a database tells of its own deprecated calls.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:alembic"),
]

SMALL = {**SMALL_CORRESPONDENCE, "rounds": 2, "steps": 4}


def learning_scenario(**changes: Any) -> Scenario:
    spread = {"candidates": ["patches", "correspondence"]}
    return small_scenario(correspondence=SMALL, propagation=spread, **changes)


def saved_state(out: Path, scenario: Scenario) -> RoundState:
    state = load_state(RunFolder(out).checkpoints, scenario.plan)
    assert state is not None
    return state


def sent_by(store: Store) -> list[dict[str, Any]]:
    rows = [json.loads(row.details) for row in read_audit(store) if row.event == "sending"]
    return [row for row in rows if row["note"]["outcome"] not in ("greeted", "scored")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    out = tmp_path_factory.mktemp("finished")
    return out, run_scenario(learning_scenario(), None, out, local_only=True)


def test_a_run_from_self_learning_to_its_report(finished: tuple[Path, Report]) -> None:
    out, report = finished
    plan = learning_scenario().plan
    state = saved_state(out, learning_scenario())
    outcomes = [{note.outcome for note in record.notes} for record in state.history]
    assert outcomes == [{"self_learned"}] * 2 + [{"trained"}] * 4
    # 2 stages of 3 scans at either hospital.
    assert [note.num_examples for note in state.history[0].notes] == [6, 6]
    assert state.closing is not None
    assert any(note.scores for note in state.closing.notes)
    assert report.segmenter is not None
    assert report.communication.rounds == plan.num_rounds == 6
    assert report.continual is not None
    assert [len(row) for row in report.continual.dice_matrix] == [2, 2]
    assert [site.rounds_trained for site in report.sites] == [4, 4]
    # Alone, a hospital learns by itself as long.
    assert all(one.mean_dice is not None for one in report.local_only)


def test_each_round_sends_what_it_trained(finished: tuple[Path, Report]) -> None:
    # Six rounds of the federation, then as many of the hospital alone.
    messages = sent_by(open_store(finished[0] / "sites" / "hospital-a"))[:6]
    prefixes = [{name.split("/")[0] for name in message["tensors"]} for message in messages]
    assert prefixes == [{"correspondence"}] * 2 + [{"segmenter", "student"}] * 4


def test_the_final_state_holds_the_network_that_was_learned(
    finished: tuple[Path, Report],
) -> None:
    plan = learning_scenario().plan
    first, last = first_state(plan).arrays, saved_state(finished[0], learning_scenario()).arrays
    learned = trained_in(plan, 1, last)
    assert learned.keys() == trained_in(plan, 1, first).keys()
    assert any(array.tobytes() != first[name].tobytes() for name, array in learned.items())


def test_a_finished_run_can_be_evaluated_elsewhere(finished: tuple[Path, Report]) -> None:
    found = evaluate_run(finished[0], finished[0] / "phantoms", no_progress)
    assert set(found) == {"segmenter", "student"}


class _Killed(BaseException):
    """The end of the server's process."""


def test_a_run_killed_while_it_learns_resumes_to_the_same_bits(
    finished: tuple[Path, Report], tmp_path: Path
) -> None:
    scenario = learning_scenario()
    stores = prepare(scenario, None, tmp_path, no_progress).stores
    folders = {name: store.folder for name, store in stores.items()}
    federation = SimulatedFederation(scenario.plan, RunFolder(tmp_path), folders)

    def kill(state: RoundState) -> None:
        if state.round == 1:
            raise _Killed

    with pytest.raises(_Killed):
        run_engine("in-process", federation, kill)
    resumed = run_engine("in-process", federation, lambda _: None)
    steady = saved_state(finished[0], scenario).arrays
    assert {name: array.tobytes() for name, array in resumed.arrays.items()} == {
        name: array.tobytes() for name, array in steady.items()
    }


def test_a_hospital_that_painted_nothing_learns_and_adam_meets_the_stream_only(
    tmp_path: Path,
) -> None:
    scenario = learning_scenario(strategy={"name": "FedAdam"})
    stores = prepare(scenario, None, tmp_path, no_progress).stores
    unpainted = create_store(tmp_path / "unpainted", "hospital-b")
    dataset, task = find_data(scenario, None, tmp_path), scenario.plan.tasks[0]
    mine = {scan.case for scan in list_scans(stores["hospital-b"], task.name)}
    cases = [case for case in dataset.cases if case.name in mine]
    ingest_cases(unpainted, find_cases(tmp_path / "phantoms"), cases, task=task)
    assert not any(latest_annotations(unpainted, one.scan_id) for one in list_scans(unpainted))
    folders = {"hospital-a": stores["hospital-a"].folder, "hospital-b": unpainted.folder}
    state = run_engine(
        "in-process",
        SimulatedFederation(scenario.plan, RunFolder(tmp_path / "out"), folders),
        lambda _: None,
    )
    for record in state.history[:2]:
        assert record.averaged == ("hospital-a", "hospital-b")
    for record in state.history[2:]:
        assert record.averaged == ("hospital-a",)
    moments = {name.split("/")[1] for name in state.strategy_arrays}
    assert moments == {"segmenter", "student"}
