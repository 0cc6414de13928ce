"""What leaves a hospital, and what it keeps, where models travel as half-precision differences."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hospital_rounds import assert_same_arrays, first_arrays, ids_of, request_for

from client.current_model import load_current_model
from client.dry_run import try_next_round
from client.egress import last_sent
from client.local_round import Hospital, answer
from client.outgoing import let_out
from client.store.audit import read_audit
from client.store.forget import forget
from client.traffic import message_bytes, traffic_of
from common.clipping import update_norm
from common.errors import EgressError
from common.plan import FederationPlan
from common.updates import Arrays, LocalUpdate, Note, decode_update
from common.wire import bytes_by_network, from_wire, to_wire

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


@pytest.fixture
def hospital(make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint) -> Hospital:
    """The first task painted."""
    made = make_hospital()
    paint(made, make_plan(), "first")
    return made


@pytest.fixture
def plan(make_plan: MakePlan) -> FederationPlan:
    return make_plan(wire="float16-deltas")


def _whole(reply: bytes, plan: FederationPlan) -> Arrays:
    return from_wire(decode_update(reply).arrays, first_arrays(plan), plan.wire)


def test_the_model_that_left_is_the_trained_one_within_the_rounding(
    hospital: Hospital, make_plan: MakePlan, plan: FederationPlan
) -> None:
    trained = decode_update(try_next_round(hospital, make_plan()).reply).arrays
    sent, first = _whole(answer(hospital, request_for(plan, 1)), plan), first_arrays(plan)
    assert update_norm(sent, first) > 0
    for name, array in trained.items():
        step = np.abs(array.astype(np.float64) - first[name])
        # Half of the last of 11 bits, and of the 24 of the sum (see tests/common/test_wire.py).
        bound = np.maximum(2.0**-11 * step, 2.0**-25) + 2.0**-24 * np.abs(array)
        assert (np.abs(sent[name] - array) <= bound * (1 + 1e-6)).all(), name


def test_half_the_bytes_leave_and_log_and_proposal_say_so(
    hospital: Hospital, plan: FederationPlan
) -> None:
    reply = answer(hospital, request_for(plan, 1))
    came, left = first_arrays(plan), decode_update(reply).arrays
    assert {array.dtype for array in left.values()} == {np.dtype(np.float16)}
    halves = {network: size // 2 for network, size in bytes_by_network(came).items()}
    assert bytes_by_network(left) == halves
    assert {one.network: one.num_bytes for one in traffic_of(plan)} == halves
    # What comes in is whole: it must not be refused as too long.
    assert message_bytes(plan) == sum(array.nbytes for array in came.values())
    sent = last_sent(hospital.store)
    assert sent is not None
    assert {tensor.dtype for tensor in sent.content.tensors} == {"float16"}
    assert sum(tensor.num_bytes for tensor in sent.content.tensors) == sum(halves.values())
    assert sent.update_norm == pytest.approx(update_norm(_whole(reply, plan), came), abs=1e-6)
    assert sent.stored_reply is not None
    assert sent.stored_reply.read_bytes() == reply


def test_the_same_request_gets_the_stored_reply(hospital: Hospital, plan: FederationPlan) -> None:
    request = request_for(plan, 1)
    assert answer(hospital, request) == answer(hospital, request)


def test_the_hospital_goes_on_with_what_it_sent(hospital: Hospital, plan: FederationPlan) -> None:
    reply = answer(hospital, request_for(plan, 1))
    sent = _whole(reply, plan)
    model = load_current_model(hospital.store, plan)
    assert model is not None
    segmenter = {name: array for name, array in sent.items() if name.startswith("segmenter/")}
    assert_same_arrays(model.arrays, segmenter)
    # A trial of the next round begins with it, too, and moves on from there.
    left = decode_update(try_next_round(hospital, plan).reply).arrays
    assert 0 < update_norm(left, to_wire(sent, sent, plan.wire)) < update_norm(sent, left)


def test_whoever_withdraws_is_told_of_both_files(hospital: Hospital, plan: FederationPlan) -> None:
    answer(hospital, request_for(plan, 1))
    (proof,) = forget(hospital.store, ids_of(hospital, "first")[0])
    assert sorted(path.rpartition(".")[2] for path in proof.replies) == ["models", "reply"]


def test_a_limit_on_the_way_holds_after_the_rounding_and_is_not_applied_twice(
    hospital: Hospital, plan: FederationPlan
) -> None:
    free = _whole(try_next_round(hospital, plan).reply, plan)
    limit = update_norm(free, first_arrays(plan)) / 4
    (hospital.store.folder / "policy.toml").write_text(
        f"most_update_norm = {limit}", encoding="utf-8"
    )
    request = request_for(plan, 1)
    reply = answer(hospital, request)
    assert limit * (1 - 2e-3) < update_norm(_whole(reply, plan), first_arrays(plan)) <= limit
    assert answer(hospital, request) == reply


@pytest.mark.parametrize("step", [1e5, np.nan])
def test_a_step_that_half_precision_cannot_hold_does_not_leave(
    hospital: Hospital, plan: FederationPlan, step: float
) -> None:
    arrays = first_arrays(plan)
    name = next(iter(arrays))
    trained = {**arrays, name: arrays[name] + np.float32(step)}
    note = Note(hospital="north", outcome="trained", round=1, num_examples=1)
    update = LocalUpdate(to_wire(trained, arrays, plan.wire), note)
    before = len(read_audit(hospital.store))
    with pytest.raises(EgressError, match=f"{name}: expected finite numbers"):
        let_out(hospital.store, update, arrays, plan)
    with pytest.raises(EgressError, match="expected float16"):
        let_out(hospital.store, replace(update, arrays=arrays), arrays, plan)
    assert len(read_audit(hospital.store)) == before
