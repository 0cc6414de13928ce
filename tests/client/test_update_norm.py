"""The hospital's own limit on how far a model that leaves has moved."""

from collections.abc import Callable

import pytest
from hospital_rounds import ask, assert_same_arrays, first_arrays, request_for

from client.dry_run import try_next_round
from client.egress import last_sent
from client.local_round import Hospital, answer
from common.clipping import update_norm
from common.plan import FederationPlan
from common.updates import Arrays, decode_update

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """The first task painted."""
    made = make_hospital()
    paint(made, make_plan(), "first")
    return made


def _limit(hospital: Hospital, norm: float) -> None:
    text = f"most_update_norm = {norm}"
    (hospital.store.folder / "policy.toml").write_text(text, encoding="utf-8")


def _steps(arrays: Arrays, plan: FederationPlan) -> dict[str, float]:
    first = first_arrays(plan)
    return {name: float((array - first[name]).sum()) for name, array in arrays.items()}


def test_a_model_that_moved_too_far_is_brought_back_in_the_same_direction(
    hospital: Hospital, make_plan: MakePlan
) -> None:
    plan = make_plan()
    free = decode_update(try_next_round(hospital, plan).reply)
    moved = update_norm(free.arrays, first_arrays(plan))
    _limit(hospital, moved / 4)
    kept = ask(hospital, plan, 1)
    assert update_norm(kept.arrays, first_arrays(plan)) == pytest.approx(moved / 4, rel=1e-4)
    far, near = _steps(free.arrays, plan), _steps(kept.arrays, plan)
    assert near == pytest.approx({name: step / 4 for name, step in far.items()}, abs=1e-4)
    assert kept.note.num_examples == free.note.num_examples
    # What is kept as the hospital's own model, and what the log says, is what left.
    sent = last_sent(hospital.store)
    assert sent is not None
    assert sent.update_norm == pytest.approx(moved / 4, rel=1e-4)
    assert sent.stored_reply is not None
    assert_same_arrays(decode_update(sent.stored_reply.read_bytes()).arrays, kept.arrays)


def test_within_the_limit_nothing_is_changed(hospital: Hospital, make_plan: MakePlan) -> None:
    plan = make_plan()
    free = decode_update(try_next_round(hospital, plan).reply)
    _limit(hospital, 1e6)
    assert_same_arrays(ask(hospital, plan, 1).arrays, free.arrays)


def test_a_stored_reply_keeps_to_the_limit_of_now(hospital: Hospital, make_plan: MakePlan) -> None:
    request = request_for(make_plan(), 1)
    free = decode_update(answer(hospital, request))
    moved = update_norm(free.arrays, first_arrays(make_plan()))
    _limit(hospital, moved / 10)
    again = decode_update(answer(hospital, request))
    assert update_norm(again.arrays, first_arrays(make_plan())) == pytest.approx(
        moved / 10, rel=1e-4
    )


def test_a_message_without_a_model_has_not_moved(hospital: Hospital, make_plan: MakePlan) -> None:
    _limit(hospital, 0.1)
    ask(hospital, make_plan(), 1, action="hello")
    sent = last_sent(hospital.store)
    assert sent is not None
    assert sent.update_norm == 0
