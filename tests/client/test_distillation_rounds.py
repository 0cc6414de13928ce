"""Rounds in which a hospital warps its scans: what it keeps to itself, and what becomes of it."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

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
from client.round_distillation import load_own_networks
from client.store.forget import forget
from client.store.leftovers import find_leftovers
from client.store.rounds import latest_round, load_state
from client.store.uses import find_uses
from client.store_checks import check_arrays
from common.networks.unet import networks_to_arrays
from common.plan import FederationPlan
from common.updates import Arrays

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
BOTH = {"pairs": 1.0, "hint": 1.0, "registration_steps": 1}


@pytest.fixture
def painted(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> MakeHospital:
    """A hospital with both tasks painted."""

    def make(name: str = "cellar") -> Hospital:
        hospital = make_hospital(name)
        paint(hospital, make_plan(), "first", "second")
        return hospital

    return make


def differ(one: Arrays, other: Arrays) -> bool:
    return any(not np.array_equal(one[name], other[name]) for name in one)


def role(arrays: Arrays, name: str) -> Arrays:
    return {key: array for key, array in arrays.items() if key.startswith(f"{name}/")}


def own_networks(hospital: Hospital, plan: FederationPlan, number: int) -> Arrays:
    """As they were kept after a round; none: no arrays."""
    kept = load_state(hospital.store, plan.federation, number).own_networks
    own = load_own_networks(plan, kept)
    both = {"registration": own.registration, "teacher": own.teacher}
    return networks_to_arrays(both) if kept else {}


def test_what_the_student_learns_from_is_no_matter_of_the_segmenter(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    hospital = painted()
    changes: list[dict[str, float]] = [
        {},
        {"labels": 1.0},
        {"pairs": 1.0},
        {"learning_rate_factor": 2.0},
    ]
    plain, *others = (ask(hospital, make_plan(distillation=change), 1).arrays for change in changes)
    for other in others:
        assert_same_arrays(role(plain, "segmenter"), role(other, "segmenter"))
        assert differ(role(plain, "student"), role(other, "student"))


def test_the_hospitals_own_networks_learn_and_stay(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    """They never leave, and only those of the last two rounds are kept."""
    plan, hospital = make_plan(distillation=BOTH), painted()
    arrays = first_arrays(plan)
    before = own_networks(hospital, plan, 0)
    assert before == {}
    reached = []
    for number in (1, 2, 3):
        arrays = ask(hospital, plan, number, arrays).arrays
        assert {name.split("/")[0] for name in arrays} == {"segmenter", "student"}
        reached.append(own_networks(hospital, plan, number))
    for one, other in pairwise(reached):
        assert differ(role(one, "registration"), role(other, "registration"))
        assert differ(role(one, "teacher"), role(other, "teacher"))
    kept = [bool(own_networks(hospital, plan, number)) for number in (1, 2, 3)]
    assert kept == [False, True, True]
    assert find_leftovers(hospital.store) == []


def test_without_pairs_nothing_is_kept(painted: MakeHospital, make_plan: MakePlan) -> None:
    plan, hospital = make_plan(), painted()
    ask(hospital, plan, 1)
    assert load_state(hospital.store, plan.federation, 1).own_networks == b""


def test_a_hospital_killed_before_each_commit_ends_the_same(
    painted: MakeHospital, make_plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(distillation=BOTH)
    steady, killed = painted("steady"), painted("killed")
    arrays = first_arrays(plan)
    for number in (1, 2):
        with monkeypatch.context() as patched:
            patched.setattr(story, "commit_round", lambda *_: 1 / 0)
            other = {name: array * np.float32(0.5) for name, array in arrays.items()}
            answer(killed, request_for(plan, number, other))
        wanted, found = (ask(one, plan, number, arrays) for one in (steady, killed))
        assert_same_arrays(wanted.arrays, found.arrays)
        assert without_times(wanted.note) == without_times(found.note)
        arrays = wanted.arrays
    states = [load_state(one.store, plan.federation, 2) for one in (steady, killed)]
    assert states[0] == states[1]
    assert states[0].own_networks


def test_a_round_asked_again_begins_with_the_networks_of_the_round_before(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    plan, hospital = make_plan(distillation=BOTH), painted()
    first = ask(hospital, plan, 1).arrays
    second = ask(hospital, plan, 2, first).arrays
    wanted = own_networks(hospital, plan, 2)
    # The coordinator went back, asked something else, and then the same again.
    ask(hospital, plan, 2, second)
    assert differ(wanted, own_networks(hospital, plan, 2))
    assert_same_arrays(ask(hospital, plan, 2, first).arrays, second)
    assert_same_arrays(own_networks(hospital, plan, 2), wanted)
    assert find_leftovers(hospital.store) == []


def test_a_withdrawn_scan_takes_the_networks_that_saw_it_along(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    plan, hospital = make_plan(distillation=BOTH), painted()
    arrays = ask(hospital, plan, 1).arrays
    (gone, *_) = ids_of(hospital, "first")
    kept = _arrays_on_disk(hospital.store.folder)
    (proof,) = forget(hospital.store, gone)
    assert own_networks(hospital, plan, 1) == {}
    removed = kept - _arrays_on_disk(hospital.store.folder)
    assert {*proof.arrays} == removed
    assert find_leftovers(hospital.store) == []
    # They are learnt anew.
    assert ask(hospital, plan, 2, arrays).note.used == 2
    assert own_networks(hospital, plan, 2)


def test_a_withdrawn_scan_that_none_of_them_saw_leaves_them_alone(
    painted: MakeHospital, make_plan: MakePlan
) -> None:
    plan, hospital = make_plan(distillation=BOTH), painted()
    ask(hospital, plan, 1)
    wanted = own_networks(hospital, plan, 1)
    forget(hospital.store, ids_of(hospital, "second")[0])
    assert_same_arrays(own_networks(hospital, plan, 1), wanted)


def test_damaged_networks_are_learnt_anew(
    painted: MakeHospital, make_plan: MakePlan, caplog: pytest.LogCaptureFixture
) -> None:
    plan, hospital = make_plan(distillation=BOTH), painted()
    before = _arrays_on_disk(hospital.store.folder)
    arrays = ask(hospital, plan, 1).arrays
    new = _arrays_on_disk(hospital.store.folder) - before
    key = max(new, key=lambda one: _path(hospital.store.folder, one).stat().st_size)
    assert own_networks(hospital, plan, 1)
    _path(hospital.store.folder, key).write_bytes(b"torn")
    assert own_networks(hospital, plan, 1) == {}
    assert "learnt anew" in caplog.text
    assert check_arrays(hospital.store, quick=False, clean=False, progress=iter).problem
    cleaned = check_arrays(hospital.store, quick=False, clean=True, progress=iter)
    assert not cleaned.problem
    assert ask(hospital, plan, 2, arrays).note.outcome == "trained"


def test_a_scan_that_nobody_painted_serves_by_its_image(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    plan = make_plan(distillation=BOTH, annotation={"scans": 2})
    hospital = make_hospital()
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    uses = [find_uses(hospital.store, one) for one in ids_of(hospital, "first")]
    assert sorted(use.part for found in uses for use in found) == ["taught", "trained", "trained"]


def test_a_dry_run_leaves_them_alone(painted: MakeHospital, make_plan: MakePlan) -> None:
    plan, hospital = make_plan(distillation=BOTH), painted()
    ask(hospital, plan, 1)
    wanted = own_networks(hospital, plan, 1)
    assert try_next_round(hospital, plan).round == 2
    assert latest_round(hospital.store, plan.federation) == 1
    assert_same_arrays(own_networks(hospital, plan, 1), wanted)


def _arrays_on_disk(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("arrays/*/*.npy")}


def _path(folder: Path, key: str) -> Path:
    return folder / "arrays" / key[:2] / f"{key}.npy"
