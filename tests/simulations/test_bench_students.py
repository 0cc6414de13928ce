"""Students of a finished run: of what they learn, and that only they differ."""

from itertools import combinations

import pytest
from hospital_rounds import ask, first_arrays
from small_scenario import small_scenario

from client.distillation.pairs import Cohort
from client.local_round import Hospital
from common.networks.unet import SEGMENTER
from simulations.annotator import SimulatedAnnotator
from simulations.bench_students import (
    ARMS,
    Finished,
    changed,
    compare_arms,
    pool,
    try_student,
)
from simulations.progress import no_progress
from simulations.run import prepare
from simulations.scenario import read_scenario


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A hospital after its first round, and first models: what a run leaves, but for its end."""
    scenario = small_scenario(num_sites=1)
    plan = scenario.plan
    prepared = prepare(scenario, None, tmp_path_factory.mktemp("finished"), no_progress)
    (store,) = prepared.stores.values()
    ask(Hospital(store, "cpu", SimulatedAnnotator(plan, scenario.annotator)), plan, 1)
    return Finished(plan, first_arrays(plan), prepared.stores, prepared.test.store)


def test_no_two_arms_are_the_same() -> None:
    plan = read_scenario("hippocampus_stream").plan
    plans = {arm: changed(plan, changes) for arm, changes in ARMS.items()}
    assert not {pair for pair in combinations(plans, 2) if plans[pair[0]] == plans[pair[1]]}


def test_students_learn_from_the_scans_that_hospitals_train_on(run: Finished) -> None:
    cohort: Cohort = pool(run)
    assert cohort.current
    assert not any(run.plan.is_held_back(one) for one in cohort.current)
    for one in cohort.current:
        assert one not in cohort.others[one]
        assert cohort.load(one).scan.scan_id == one


def test_a_student_is_trained_and_scored(run: Finished) -> None:
    best = run.dice(run.plan, run.arrays, SEGMENTER)
    trial = try_student(run, run.plan, 10, best or 1.0)
    assert 0 <= trial.dice <= 1
    assert trial.parameters < sum(
        array.size for name, array in run.arrays.items() if name.startswith("segmenter/")
    )
    assert try_student(run, run.plan, 10, best or 1.0) == trial


def test_only_the_arms_that_are_named_are_compared(
    run: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    compare_arms({0: run}, 0, "soft predictions, pairs")
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [row.split("  ")[0] for row in rows] == ["soft predictions, pairs, hint"]
