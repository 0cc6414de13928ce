"""The log is a chain: a change anywhere shows."""

import json
from datetime import datetime, timedelta

import pytest

from client.store.audit import read_audit, verify_audit, write_audit
from client.store.store import Store
from common.errors import StoreError


def _write_three(store: Store) -> None:
    for number in range(3):
        write_audit(store, "sending", {"round": number, "tensors": {"a": "float32 (1,)"}})


def test_an_empty_log_holds(store: Store) -> None:
    assert read_audit(store) == []
    assert verify_audit(store) == 0


def test_rows_come_in_order_with_utc_times(store: Store) -> None:
    _write_three(store)
    rows = read_audit(store)
    assert [json.loads(row.details)["round"] for row in rows] == [0, 1, 2]
    assert all(datetime.fromisoformat(row.time).utcoffset() == timedelta(0) for row in rows)
    assert verify_audit(store) == 3


@pytest.mark.parametrize(
    ("change", "broken"),
    [
        ("UPDATE audit SET details = '{}' WHERE number = 2", 2),
        ("UPDATE audit SET event = 'x' WHERE number = 1", 1),
        ("UPDATE audit SET time = '2020-01-01' WHERE number = 3", 3),
        ("UPDATE audit SET chain = 'x' WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 2", 2),
        ("DELETE FROM audit WHERE number = 1", 1),
        ("INSERT INTO audit VALUES (4, '2030-01-01', 'sending', '{}', 'made up')", 4),
        ("INSERT INTO audit SELECT 4, time, event, details, chain FROM audit WHERE number = 3", 4),
        ("INSERT INTO audit SELECT 0, time, event, details, chain FROM audit WHERE number = 1", 1),
    ],
)
def test_a_change_names_the_first_broken_row(store: Store, change: str, broken: int) -> None:
    _write_three(store)
    with store.connect() as connection:
        connection.execute(change)
    with pytest.raises(StoreError, match=f"row {broken} of the audit log"):
        verify_audit(store)
