"""Rounds in which an old model keeps earlier tasks alive."""

from collections.abc import Callable

import numpy as np
import pytest
from hospital_rounds import (
    ask,
    assert_same_arrays,
    first_arrays,
    ids_of,
    request_for,
    without_times,
)

import client.local_round as story
from client.dry_run import try_next_round
from client.local_round import Hospital, answer
from client.store.forget import forget
from client.store.leftovers import find_leftovers
from client.store.old_models import OLD_MODELS
from common.plan import FederationPlan
from common.updates import Arrays

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
WAYS: list[dict[str, object]] = [
    {"old_classes": "distilled"},
    {"old_classes": "merged", "replay_distillation": 1.0},
    {"old_classes": "merged", "current_distillation": 1.0},
    {"old_classes": "merged", "elastic_weight": 1e6},
]


@pytest.fixture
def painted(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> MakeHospital:
    """A hospital with both tasks painted."""

    def make(name: str = "cellar") -> Hospital:
        hospital = make_hospital(name)
        paint(hospital, make_plan(), "first", "second")
        return hospital

    return make


def run(hospital: Hospital, plan: FederationPlan, rounds: range = range(1, 5)) -> Arrays:
    """One hospital's federation: what it sends comes back in the next round."""
    arrays = first_arrays(plan)
    for number in rounds:
        arrays = ask(hospital, plan, number, arrays).arrays
    return arrays


def differ(one: Arrays, other: Arrays) -> bool:
    return any(not np.array_equal(one[name], other[name]) for name in one)


def old_models(hospital: Hospital) -> list[str]:
    return sorted(path.name[:5] for path in hospital.store.folder.glob(f"{OLD_MODELS}/*/*"))


@pytest.mark.parametrize("retention", [*WAYS, {"old_classes": "background"}], ids=str)
def test_every_way_matters_from_the_second_stage_on(
    painted: MakeHospital, make_plan: MakePlan, retention: dict[str, object]
) -> None:
    # Enough steps for patches of both tasks; the old model is the segmenter until the first.
    steps = {"steps_per_round": 6}
    plain = make_plan(training=steps, retention={"old_classes": "merged"})
    held = make_plan(training=steps, retention=retention)
    one, other = painted("one"), painted("other")
    first = [ask(hospital, plan, 1).arrays for hospital, plan in ((one, plain), (other, held))]
    assert_same_arrays(*first)
    second = [
        ask(hospital, plan, 3, first[0]).arrays for hospital, plan in ((one, plain), (other, held))
    ]
    assert differ(*second)
    assert old_models(one) == []
    needs_one = retention != {"old_classes": "background"}
    assert old_models(other) == (["00003"] if needs_one else [])


def test_held_to_the_old_model_the_segmenter_moves_less(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    moved = []
    for name, strength in (("free", 0.0), ("held", 100.0)):
        plan = make_plan(
            retention={"replay_distillation": strength, "current_distillation": strength},
            training={"steps_per_round": 8},
        )
        hospital = painted(name)
        before = first_arrays(plan)
        after = ask(hospital, plan, 3, before).arrays
        weights = [key for key in before if key.startswith("segmenter/")]
        moved.append(sum(float(np.square(after[key] - before[key]).sum()) for key in weights))
    assert moved[1] < moved[0]


def test_killed_before_each_commit_the_stage_ends_the_same(
    painted: MakeHospital, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = {name: value for way in WAYS[::-1] for name, value in way.items()}
    plan = make_plan(retention=everything)
    steady, killed = painted("steady"), painted("killed")
    arrays = first_arrays(plan)
    for number in (1, 3, 4):
        # A coordinator that went back asks with other weights first; the power goes off each time.
        with monkeypatch.context() as patched:
            patched.setattr(story, "commit_round", lambda *_: 1 / 0)
            other = {name: array * np.float32(0.5) for name, array in arrays.items()}
            for request in (request_for(plan, number, other), request_for(plan, number, arrays)):
                answer(killed, request)
        wanted, found = (ask(one, plan, number, arrays) for one in (steady, killed))
        assert wanted.note.outcome == "trained"
        assert_same_arrays(wanted.arrays, found.arrays)
        assert without_times(wanted.note) == without_times(found.note)
        arrays = wanted.arrays
    assert old_models(steady) == old_models(killed) == ["00003"]


def test_the_old_model_stays_that_of_the_first_round(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    plan = make_plan(retention={"current_distillation": 1.0})
    hospital = painted()
    arrays = first_arrays(plan)
    ask(hospital, plan, 3, arrays)
    (path,) = hospital.store.folder.glob(f"{OLD_MODELS}/*/*")
    kept = path.read_bytes()
    ask(hospital, plan, 4, {name: array + np.float32(1) for name, array in arrays.items()})
    assert path.read_bytes() == kept
    assert b"student" not in kept


def test_a_withdrawal_in_the_middle_of_a_stage(painted: MakeHospital, make_plan: MakePlan) -> None:
    plan = make_plan(retention={"old_classes": "distilled", "elastic_weight": 1.0})
    hospital = painted()
    arrays = run(hospital, plan, range(1, 4))
    request = request_for(plan, 3, arrays)
    answer(hospital, request)
    forget(hospital.store, ids_of(hospital, "first")[0])
    # What was trained on it is made again, with the same old model.
    assert ask(hospital, plan, 3, arrays).note.replayed == 2
    assert ask(hospital, plan, 4, arrays).note.replayed == 2
    assert old_models(hospital) == ["00003"]
    assert find_leftovers(hospital.store) == []


def test_without_memory_no_weight_is_held(painted: MakeHospital, make_plan: MakePlan) -> None:
    sent = [
        ask(
            painted(f"at {weight}"),
            make_plan(retention={"elastic_weight": weight}, replay={"budget_scans": 0}),
            3,
        ).arrays
        for weight in (0.0, 1e6)
    ]
    assert_same_arrays(*sent)


def test_a_dry_run_leaves_the_old_model_alone(painted: MakeHospital, make_plan: MakePlan) -> None:
    plan = make_plan(retention={"old_classes": "distilled"})
    hospital = painted()
    run(hospital, plan, range(1, 3))
    assert try_next_round(hospital, plan).round == 3
    assert old_models(hospital) == []
