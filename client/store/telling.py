"""Texts by which a person could be known, in the spellings in which people would write them."""

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import datetime

from client.store.identities import Identity
from client.store.scans import OF_VOLUME
from common.scans import volume_of

SHORTEST_TELLING = 4  # shorter texts are found everywhere by chance
# As DICOM writes a date, and as people do.
DICOM_DATE = "%Y%m%d"
SPELLINGS = ("%Y-%m-%d", "%d.%m.%Y", "%d/%m/%Y", "%m/%d/%Y", "%d %B %Y", "%B %d, %Y")


def telling_texts(case: str, identity: Identity | None) -> Sequence[str]:
    """What tells who a scan is of, in lower case: case, numbers, name part by part, birth date."""
    texts = [case]
    if identity is not None:
        details = identity.details
        texts += [identity.patient, *re.split(r"[\W_]+", details.get("name", ""))]
        texts += [details.get(key, "") for key in ("name", "study", "series")]
        texts += _spelled(details.get("birth_date", ""))
    return [text.casefold() for text in texts if len(text) >= SHORTEST_TELLING]


def telling_of(connection: sqlite3.Connection, scan_id: str) -> list[str]:
    """What tells who a scan is of: all that came with its volume, for whatever task."""
    query = (
        "SELECT case_name, patient, details FROM scans LEFT JOIN identities USING (scan_id) "
        f"WHERE {OF_VOLUME} ORDER BY scan_id"
    )
    texts: list[str] = []
    for row in connection.execute(query, {"volume": volume_of(scan_id)}):
        known = row["patient"] is not None
        identity = Identity(row["patient"], json.loads(row["details"])) if known else None
        texts += telling_texts(row["case_name"], identity)
    return texts


def tells(text: str, telling: Iterable[str]) -> bool:
    """Whether a text holds any of these, however it is capitalised."""
    folded = text.casefold()
    return any(one in folded for one in telling)


def _spelled(date: str) -> list[str]:
    try:
        day = datetime.strptime(date, DICOM_DATE)
    except ValueError:
        return [date]
    spelled = [day.strftime(spelling) for spelling in SPELLINGS]
    # Without leading zeros as well: 03.02.1961 is 3.2.1961.
    return [date, *spelled, *(re.sub(r"\b0", "", one) for one in spelled)]
