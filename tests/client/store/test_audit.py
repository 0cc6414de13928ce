"""The log is a chain with a head: a change anywhere shows."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from client.store.audit import (
    Head,
    newest_row,
    newest_time,
    read_audit,
    verify_audit,
    write_audit,
)
from client.store.store import Store
from common.errors import StoreError


def _write_three(store: Store) -> None:
    for number in range(3):
        write_audit(store, "sending", {"round": number, "tensors": {"a": "float32 (1,)"}})


def _change(store: Store, query: str) -> None:
    with store.connect() as connection:
        connection.execute(query)


def _row_after(last: Head, event: str) -> str:
    """A row that follows from the last one as it should: anybody can work out the chain."""
    time = "2030-01-01T00:00:00.000+00:00"
    content = "\n".join([last.chain, str(last.number + 1), time, event, "{}"])
    chain = hashlib.sha256(content.encode()).hexdigest()
    return f"INSERT INTO audit VALUES ({last.number + 1}, '{time}', '{event}', '{{}}', '{chain}')"


def test_an_empty_log_holds(store: Store) -> None:
    assert read_audit(store) == []
    assert verify_audit(store) == Head(0, "")
    assert newest_row(store, "sending") is newest_time(store) is None


def test_rows_come_in_order_with_utc_times(store: Store) -> None:
    _write_three(store)
    rows = read_audit(store)
    assert [json.loads(row.details)["round"] for row in rows] == [0, 1, 2]
    assert all(datetime.fromisoformat(row.time).utcoffset() == timedelta(0) for row in rows)
    assert verify_audit(store) == Head(3, rows[-1].chain)
    write_audit(store, "failed", {})
    assert newest_row(store, "sending") == rows[-1]
    assert newest_time(store) == read_audit(store)[-1].time


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
    _change(store, change)
    with pytest.raises(StoreError, match=f"row {broken} of the audit log"):
        verify_audit(store)


# The head ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows_left", [0, 1, 2])
def test_a_tail_that_was_cut_off_shows(store: Store, rows_left: int) -> None:
    _write_three(store)
    _change(store, f"DELETE FROM audit WHERE number > {rows_left}")
    with pytest.raises(StoreError, match=f"ends at row {rows_left}, its head is row 3"):
        verify_audit(store)


def test_a_row_put_in_at_the_end_shows_although_its_chain_holds(store: Store) -> None:
    _write_three(store)
    _change(store, _row_after(verify_audit(store), "sending"))
    with pytest.raises(StoreError, match="ends at row 4, its head is row 3"):
        verify_audit(store)


def test_writing_on_does_not_hide_a_cut(store: Store) -> None:
    _write_three(store)
    _change(store, "DELETE FROM audit WHERE number = 3")
    write_audit(store, "sending", {})
    assert [row.event for row in read_audit(store)] == ["sending"] * 2 + ["log_broken", "sending"]
    with pytest.raises(StoreError, match=r"row 3 of the audit log tells of a break before it.*3:"):
        verify_audit(store)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("{")])
def test_a_head_that_is_gone_or_damaged_shows(
    store: Store, damage: Callable[[Path], object]
) -> None:
    _write_three(store)
    damage(store.folder / "audit.head")
    with pytest.raises(StoreError, match="has 3 rows and its head is gone"):
        verify_audit(store)
    write_audit(store, "sending", {})
    with pytest.raises(StoreError, match="row 4 of the audit log tells of a break"):
        verify_audit(store)


def test_a_log_made_up_anew_does_not_go_through_a_head_noted_elsewhere(store: Store) -> None:
    _write_three(store)
    noted = str(verify_audit(store))
    write_audit(store, "sending", {})
    assert verify_audit(store, noted).number == 4
    _change(store, "DELETE FROM audit")
    (store.folder / "audit.head").unlink()
    _write_three(store)
    assert verify_audit(store).number == 3
    with pytest.raises(StoreError, match="does not go through the noted head 3:"):
        verify_audit(store, noted)


KILLED_AT = """
import os, signal, sys
from pathlib import Path
import client.store.audit as audit
from client.store.store import open_store

store = open_store(Path(sys.argv[1]))
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before the head":
    audit._write_heads = die
elif sys.argv[2] == "before the commit":
    write = audit._write_heads
    audit._write_heads = lambda *given: (write(*given), die())
else:
    audit.settle_head = die
audit.write_audit(store, "sending", {"round": 3})
"""


@pytest.mark.parametrize(
    ("moment", "rows"), [("before the head", 3), ("before the commit", 3), ("after the commit", 4)]
)
def test_a_process_killed_while_writing_leaves_a_log_that_holds(
    store: Store, moment: str, rows: int
) -> None:
    _write_three(store)
    command = [sys.executable, "-c", KILLED_AT, str(store.folder), moment]
    killed = subprocess.run(
        command, cwd=Path(__file__).parents[3], env=dict(os.environ), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert verify_audit(store).number == rows
    write_audit(store, "sending", {})
    assert verify_audit(store).number == rows + 1
