"""Who a scan is of is found by the patient's number, and is never moved to another in silence."""

from pathlib import Path

import pytest

from client.store.identities import (
    Identity,
    find_by_patient,
    find_identity,
    list_identities,
    save_identity,
)
from client.store.ingest import ingest_cases
from client.store.layouts import find_cases
from client.store.store import Store
from common.errors import BadScanError
from common.plan import FederationPlan


def _save(store: Store, scan_id: str, patient: str, **details: str) -> None:
    with store.connect() as connection:
        save_identity(connection, scan_id, Identity(patient, details))


def test_scans_are_found_by_the_patients_number(store: Store, scan_ids: list[str]) -> None:
    first, second, third = scan_ids
    _save(store, second, "0815", name="Erika")
    _save(store, first, "0815")
    _save(store, third, "4711")
    assert find_by_patient(store, "0815") == [first, second]
    assert find_by_patient(store, "81") == []
    assert list_identities(store)[second] == Identity("0815", {"name": "Erika"})


def test_a_corrected_name_is_taken_over_and_a_late_number_too(
    store: Store, scan_ids: list[str]
) -> None:
    _save(store, scan_ids[0], "", name="Erica")
    _save(store, scan_ids[0], "0815", name="Erika")
    assert list_identities(store) == {scan_ids[0]: Identity("0815", {"name": "Erika"})}


def test_a_scan_does_not_change_its_patient(store: Store, scan_ids: list[str]) -> None:
    _save(store, scan_ids[0], "0815")
    with pytest.raises(BadScanError, match="registered already as another patient's") as refusal:
        _save(store, scan_ids[0], "4711")
    assert "0815" not in str(refusal.value)
    assert find_by_patient(store, "0815") == scan_ids[:1]


def test_a_scan_that_serves_two_tasks_is_of_one_patient(
    store: Store, plan: FederationPlan, plain_folder: Path, scan_ids: list[str]
) -> None:
    dataset = find_cases(plain_folder)
    ingest_cases(store, dataset, dataset.cases, task=plan.tasks[1])
    first = scan_ids[0]
    other = f"{first}-second"
    _save(store, first, "", name="Erika")
    assert find_identity(store, other) == Identity("", {"name": "Erika"})
    _save(store, other, "0815")
    # The one with a number tells more, whichever came first.
    assert find_identity(store, first) == find_identity(store, other) == Identity("0815", {})
    with pytest.raises(BadScanError, match="registered already as another patient's"):
        _save(store, first, "4711")
    assert find_identity(store, scan_ids[1]) is None


def test_an_identity_does_not_show_itself() -> None:
    assert repr(Identity("0815", {"name": "Erika"})) == "Identity()"
