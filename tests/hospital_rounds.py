"""Rounds asked of one hospital: requests as bytes, replies decoded."""

import numpy as np

from client.local_round import Hospital, answer
from client.store.audit import read_audit, verify_audit
from client.store.scans import list_scans
from common.networks.unet import build_networks, networks_to_arrays
from common.plan import FederationPlan
from common.updates import (
    Action,
    Arrays,
    LocalUpdate,
    Note,
    RoundRequest,
    decode_update,
    encode_request,
)


def first_arrays(plan: FederationPlan) -> Arrays:
    return networks_to_arrays(build_networks(plan))


def request_for(
    plan: FederationPlan,
    number: int,
    arrays: Arrays | None = None,
    *,
    action: Action = "train",
    held_back_dice: float | None = None,
) -> bytes:
    held_back = of_every_class(plan, held_back_dice)
    request = RoundRequest(action=action, plan=plan, round=number, held_back_dice=held_back)
    return encode_request(request, first_arrays(plan) if arrays is None else arrays)


def of_every_class(plan: FederationPlan, dice: float | None) -> dict[str, float]:
    return {} if dice is None else {label.name: dice for label in plan.labels}


def ask(hospital: Hospital, *arguments: object, **changes: object) -> LocalUpdate:
    return decode_update(answer(hospital, request_for(*arguments, **changes)))  # type: ignore[arg-type]


def without_times(note: Note) -> dict[str, object]:
    return note.model_dump(exclude={"seconds"})


def assert_same_arrays(one: Arrays, other: Arrays) -> None:
    assert set(one) == set(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])


def ids_of(hospital: Hospital, task: str) -> list[str]:
    return [scan.scan_id for scan in list_scans(hospital.store, task)]


def events(hospital: Hospital) -> list[str]:
    """What a hospital's audit log says happened, in order; the log holds."""
    verify_audit(hospital.store)
    return [row.event for row in read_audit(hospital.store)]
