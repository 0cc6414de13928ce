"""Rounds that fail at a hospital tell the coordinator what it needs and nothing more."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hospital_rounds import (
    ask,
    events,
    first_arrays,
    ids_of,
    request_for,
)

from client.local_round import Hospital, answer
from client.store.audit import read_audit
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.rounds import latest_round
from client.store.scans import find_scan, list_scans
from common.plan import FederationPlan
from common.updates import (
    Action,
    RoundRequest,
    decode_update,
    encode_request,
)
from common.version import PROTOCOL, SOFTWARE

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]


def assert_tells_nothing(reply: bytes, hospital: Hospital) -> None:
    private = [str(hospital.store.folder), hospital.store.folder.name, "patient-", ".npy"]
    for scan in list_scans(hospital.store):
        private += [scan.scan_id, scan.case, scan.image_key[:12]]
    assert not [text for text in private if text.encode() in reply]


def test_a_lost_array_fails_the_round_and_tells_nothing(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    scan = find_scan(hospital.store, ids_of(hospital, "first")[0])
    (lost,) = (hospital.store.folder / "arrays").rglob(f"{scan.image_key}.npy")
    kept = lost.read_bytes()
    lost.unlink()
    request = request_for(plan, 1)
    reply = answer(hospital, request)
    update = decode_update(reply)
    assert update.arrays == {}
    assert update.note.outcome == "failed"
    assert update.note.reason == "StoreError: see the hospital's log"
    assert_tells_nothing(reply, hospital)
    (row,) = read_audit(hospital.store)
    assert row.event == "failed"
    assert "Traceback" in row.details
    assert scan.image_key[:12] in row.details
    # Nothing is committed, so that the same request is tried again once the file is back.
    assert latest_round(hospital.store, plan.federation) == 0
    lost.write_bytes(kept)
    assert decode_update(answer(hospital, request)).note.outcome == "trained"


def test_an_error_that_is_none_of_ours_tells_not_even_its_name(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = first_arrays(plan)
    name = next(iter(arrays))
    del arrays[name]  # torch refuses to load the rest
    reply = answer(hospital, request_for(plan, 1, arrays))
    assert decode_update(reply).note.reason == "see the hospital's log"
    assert_tells_nothing(reply, hospital)
    assert events(hospital) == ["failed"]


def test_tensors_of_another_type_are_refused_before_they_leave(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = {name: array.astype(np.float64) for name, array in first_arrays(plan).items()}
    note = ask(hospital, plan, 1, arrays).note
    assert (note.outcome, note.reason) == ("failed", "EgressError: see the hospital's log")
    assert latest_round(hospital.store, plan.federation) == 0


def test_weights_that_are_not_finite_never_leave(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    arrays = first_arrays(plan)
    for array in arrays.values():
        array.fill(np.nan)
    update = ask(hospital, plan, 1, arrays)
    assert (update.note.outcome, update.arrays) == ("failed", {})


@pytest.mark.parametrize("action", ["hello", "train"])
@pytest.mark.parametrize("other", [{"protocol": 9}, {"software": "9.0.0"}, {"protocol": 2}])
def test_a_coordinator_of_another_version_is_told_both_and_can_read_it(
    make_hospital: MakeHospital, make_plan: MakePlan, action: Action, other: dict[str, Any]
) -> None:
    hospital, plan = make_hospital(), make_plan()
    request = RoundRequest(action=action, plan=plan, round=1).model_copy(update=other)
    reply = answer(hospital, encode_request(request, {}))
    length = int.from_bytes(reply[:8], "little")
    note = json.loads(json.loads(reply[8 : 8 + length])["__metadata__"]["json"])
    reason = (
        f"the hospital runs OneSlice {SOFTWARE} (protocol {PROTOCOL}), the coordinator "
        f"{request.software} (protocol {request.protocol}); at the hospital: "
        f"pip install oneslice=={request.software}"
    )
    keys = {"hospital": hospital.store.hospital, "outcome": "failed", "reason": reason}
    assert note == {**keys, "protocol": request.protocol}, "in the coordinator's own protocol"
    assert len(reason) <= 200
    assert "the coordinator" in read_audit(hospital.store)[0].details
    assert_tells_nothing(reply, hospital)
    rows = len(read_audit(hospital.store))
    assert answer(hospital, encode_request(request, {})) == reply
    assert len(read_audit(hospital.store)) == rows, "asked again and again, it is written once"


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"no request at all",
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (21).to_bytes(8, "little") + b'{"__metadata__":null}',
    ],
    ids=["empty", "text", "huge-header", "list", "null"],
)
def test_bytes_that_are_no_request_are_answered_too(
    make_hospital: MakeHospital, request_bytes: bytes
) -> None:
    hospital = make_hospital()
    note = decode_update(answer(hospital, request_bytes)).note
    assert (note.outcome, note.reason) == ("failed", "SettingsError: see the hospital's log")
    assert events(hospital) == ["failed"]


def test_a_store_that_is_gone_is_answered_too(
    make_hospital: MakeHospital, make_plan: MakePlan
) -> None:
    hospital, plan = make_hospital(), make_plan()
    hospital.store.catalog.write_bytes(b"this is no catalog, and was one just now")
    reply = answer(hospital, request_for(plan, 1))
    assert decode_update(reply).note.reason == "StoreError: see the hospital's log"
    assert str(hospital.store.folder).encode() not in reply


def test_a_quarantined_case_is_counted_and_in_nobodys_way(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint, tmp_path: Path
) -> None:
    hospital, plan = make_hospital(), make_plan()
    folder = tmp_path / "bad"
    (folder / "images").mkdir(parents=True)
    (folder / "images" / "patient-bad.nii.gz").write_bytes(b"no scan")
    dataset = find_cases(folder)
    ingest_cases(hospital.store, dataset, dataset.cases, task=plan.tasks[0])
    paint(hospital, plan, "first")
    note = ask(hospital, plan, 1).note
    assert (note.outcome, note.used, note.quarantined) == ("trained", 3, 1)
