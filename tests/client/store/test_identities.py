"""Who a scan is of is found by the patient's number, and is never moved to another in silence."""

import pytest

from client.store.identities import Identity, find_by_patient, list_identities, save_identity
from client.store.store import Store
from common.errors import BadScanError


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


def test_an_identity_does_not_show_itself() -> None:
    assert repr(Identity("0815", {"name": "Erika"})) == "Identity()"
