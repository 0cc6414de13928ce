"""Who a scan is of. This stays in the hospital's catalog, in one table, and is nowhere else.

Pictures come with the patient's number, so that a patient's withdrawal finds them; everything else
in the store and all that leaves it knows pseudonyms only.
"""

import json
import sqlite3
from dataclasses import dataclass, field

from client.store.scans import OF_VOLUME
from client.store.store import Store
from common.errors import BadScanError
from common.scans import volume_of


@dataclass(frozen=True)
class Identity:
    """A scan's patient. Never printed: the representation shows no field.

    Attributes:
        patient: the patient's number in the hospital; empty if the scan came without one.
        details: name, birth date, sex, study and series, as far as the scan says.
    """

    patient: str = field(repr=False)
    details: dict[str, str] = field(repr=False)


def save_identity(connection: sqlite3.Connection, scan_id: str, identity: Identity) -> None:
    """Notes whom a scan is of, in the transaction that writes the scan's row.

    Raises:
        BadScanError: the volume is another patient's already, for whatever task; nobody is ever
            moved silently.
    """
    query = f"SELECT patient FROM identities WHERE {OF_VOLUME}"
    rows = connection.execute(query, {"volume": volume_of(scan_id)})
    if {row["patient"] for row in rows} - {"", identity.patient}:
        raise BadScanError(
            "the same voxels are registered already as another patient's: if the number was "
            "corrected, forget the scan and ingest it again; if not, one of the two is wrong"
        )
    connection.execute(
        "INSERT OR REPLACE INTO identities VALUES (?, ?, ?)",
        (scan_id, identity.patient, json.dumps(identity.details, sort_keys=True)),
    )


def find_by_patient(store: Store, patient: str) -> list[str]:
    """The scan_ids of a patient's number, in order; none if the number is unknown."""
    with store.read() as connection:
        query = "SELECT scan_id FROM identities WHERE patient = ? ORDER BY scan_id"
        rows = connection.execute(query, (patient,)).fetchall()
    return [row["scan_id"] for row in rows]


def find_identity(store: Store, scan_id: str) -> Identity | None:
    """Whose a scan is, for whatever task its volume came with that; none if it is not known."""
    query = f"SELECT * FROM identities WHERE {OF_VOLUME} ORDER BY patient = '', scan_id LIMIT 1"
    with store.read() as connection:
        row = connection.execute(query, {"volume": volume_of(scan_id)}).fetchone()
    return None if row is None else Identity(row["patient"], json.loads(row["details"]))


def list_identities(store: Store) -> dict[str, Identity]:
    """All that is known, by scan_id."""
    with store.read() as connection:
        rows = connection.execute("SELECT * FROM identities ORDER BY scan_id").fetchall()
    return {row["scan_id"]: Identity(row["patient"], json.loads(row["details"])) for row in rows}
