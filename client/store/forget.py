"""Withdrawal: everything of a scan goes, a proof that names nobody stays.

Rows go first, in one transaction that also keeps the proof; then the files that no row points to
any more; then the catalog is written anew, since SQLite leaves the bytes of deleted rows in its
file and its log. Last the proof goes into the audit log. Killed anywhere in between, the next call
sees the proof that is still kept and goes on from there.

The pseudonym stays: in the list of scans that may not come back, in the record of the rounds that
used the scan, and in the proof. It is a digest of the voxels and tells nothing of them.
"""

import json
import math
import sqlite3
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from client.store.audit import add_row, settle_head
from client.store.clock import now
from client.store.leftovers import array_columns, keys_pointed_to, remove_leftovers
from client.store.lock import alone
from client.store.own_networks import drop_own_networks, own_network_keys
from client.store.received_models import goes_on_from
from client.store.scans import ids_of_volume
from client.store.store import Store
from client.store.telling import telling_of, tells
from client.store.uses import Use, uses_of
from client.store.withdrawn import unfinished_withdrawals, when_withdrawn
from common.errors import SettingsError, StoreError
from common.scans import volume_of

PATIENCE_S = 60.0
# What stays of a scan: the rounds that used it, and that it may not come back.
KEPT = ("uses", "withdrawn")
SAW_IT = "EXISTS (SELECT 1 FROM json_each(correspondence.scans) WHERE value = ?)"


@dataclass(frozen=True)
class Proof:
    """What became of one withdrawn scan. No name, no number, no picture.

    Attributes:
        scan_id: its pseudonym.
        time: of the withdrawal.
        reason: as it was given.
        rows: table -> how many rows were removed or cleared of the scan.
        arrays: sha256 of the arrays that were removed.
        shared_arrays: sha256 of those that stay, because another scan has one of the same content.
        replies: stored replies that were trained on it. They hold weights, no data, and stay as the
            model that the hospital has; they are not sent again.
        uses: the rounds that had it in their material. What a round averaged stays in the models of
            that round and of all that followed; weights cannot be taken back.
        named_in_audit: rows of the audit log, which cannot be changed, that hold a name of it.
        derived: federations that went on from such a round of another one and asked here: all of
            their models derive from it.
    """

    scan_id: str
    time: str
    reason: str
    rows: dict[str, int]
    arrays: tuple[str, ...]
    shared_arrays: tuple[str, ...]
    replies: tuple[str, ...]
    uses: tuple[Use, ...]
    named_in_audit: tuple[int, ...]
    derived: tuple[str, ...] = ()


def forget(
    store: Store, name: str, reason: str = "", *, patience_s: float = PATIENCE_S
) -> list[Proof]:
    """Withdraws the scan of that id, all scans of that case name, or of that patient's number.

    A scan goes for all tasks that it serves, under whatever name it came for each.
    Withdrawals that were interrupted are brought to their end first; then it is no error that
    nothing is left under the name. A name that is in quarantine alone is removed there, without a
    proof.

    Raises:
        StoreError: nothing has that name, it means different scans, or the store is in use.
        SettingsError: the reason names the patient.
    """
    with alone(store, patience_s=patience_s):
        finished = _finish(store)
        with store.connect() as connection:
            scan_ids = _scans_called(connection, name)
            is_left = bool(name) and not scan_ids
            num_quarantined = _drop_quarantined(connection, name) if is_left else 0
            telling = {one: telling_of(connection, one) for one in scan_ids}
            drafts = [_withdraw(connection, store, one, reason, telling[one]) for one in scan_ids]
            wanted = keys_pointed_to(connection)  # once the rows of all of them are gone
            withdrawn = [_tell_shared(draft, wanted) for draft in drafts]
            connection.executemany(
                "INSERT INTO withdrawn VALUES (?, ?, ?)",
                [(one.scan_id, one.time, json.dumps(asdict(one))) for one in withdrawn],
            )
        if not withdrawn:
            # Also without a row: an earlier call may have been killed between the row and this.
            store.rewrite()
            if not num_quarantined and not finished:
                raise _unknown(store, name)
        return finished + _finish(store)


def _scans_called(connection: sqlite3.Connection, name: str) -> list[str]:
    """The scans that a name means.

    Raises:
        StoreError: it means one thing as a patient's number and another as a case's name.
    """
    queries = {
        "scan": "SELECT scan_id FROM scans WHERE scan_id = :name",
        "patient": "SELECT scan_id FROM identities WHERE patient = :name AND patient <> ''",
        "case": "SELECT scan_id FROM scans WHERE case_name = :name",
    }
    found = {}
    for kind, query in queries.items():
        rows = connection.execute(f"{query} ORDER BY scan_id", {"name": name}).fetchall()
        if rows:
            volumes = sorted({volume_of(row["scan_id"]) for row in rows})
            ids = [one for volume in volumes for one in ids_of_volume(connection, volume).values()]
            found[kind] = sorted(ids)
    meanings = list(found.values())
    if any(one != meanings[0] for one in meanings):
        listed = "; ".join(f"as a {kind}: {', '.join(ids)}" for kind, ids in found.items())
        raise StoreError(f"{name!r} means different scans ({listed}): withdraw them by scan id")
    return meanings[0] if meanings else []


def _unknown(store: Store, name: str) -> StoreError:
    time = when_withdrawn(store, name)
    if time is not None:
        return StoreError(f"{name} was withdrawn on {time[:10]} already; nothing of it is left")
    return StoreError(
        f"no scan, case or patient is called {name!r}; `hospital status` counts what there is"
    )


def _withdraw(
    connection: sqlite3.Connection, store: Store, scan_id: str, reason: str, telling: Sequence[str]
) -> Proof:
    """Removes all rows of a scan; the proof of it, with all its arrays, which are still there."""
    if tells(reason, telling):
        raise SettingsError(
            "the reason names the patient or the case, and would stay in the audit log: say it "
            "without"
        )
    query = "SELECT case_name FROM scans WHERE scan_id = ?"
    case = str(connection.execute(query, (scan_id,)).fetchone()["case_name"])
    keys = _arrays_of(connection, scan_id)
    uses = uses_of(connection, scan_id)
    has_taught = any(use.part != "scored" for use in uses)
    keys |= own_network_keys(connection) if has_taught else set()
    rows = {
        "quarantine": _drop_quarantined(connection, case),
        "correspondence": _drop_networks(connection, scan_id),
        "own_networks": drop_own_networks(connection) if has_taught else 0,
        "rounds": _drop_from_memories(connection, scan_id),
        **_drop_rows(connection, scan_id),
    }
    return Proof(
        scan_id=scan_id,
        time=now(),
        reason=reason,
        rows={table: number for table, number in rows.items() if number},
        arrays=tuple(sorted(keys)),
        shared_arrays=(),
        replies=tuple(_replies_of(store, uses)),
        uses=tuple(uses),
        named_in_audit=tuple(_audit_rows_naming(connection, telling)),
        derived=_derived(store, uses),
    )


def _tell_shared(proof: Proof, wanted: set[str]) -> Proof:
    """The proof with those arrays apart that other scans still point to."""
    keys = set(proof.arrays)
    gone, shared = sorted(keys - wanted), sorted(keys & wanted)
    return replace(proof, arrays=tuple(gone), shared_arrays=tuple(shared))


def _derived(store: Store, uses: Sequence[Use]) -> tuple[str, ...]:
    first: dict[str, int] = {}
    for use in uses:
        if use.part != "scored":
            first[use.federation] = min(use.first_round, first.get(use.federation, use.first_round))
    went_on, derived = goes_on_from(store), set[str]()
    while new := {
        name
        for name, earlier in went_on.items()
        if name not in derived
        and (
            earlier.federation in derived
            or first.get(earlier.federation, math.inf) <= earlier.round
        )
    }:
        derived |= new
    return tuple(sorted(derived))


def _arrays_of(connection: sqlite3.Connection, scan_id: str) -> set[str]:
    keys: set[str] = set()
    for table, column in array_columns(connection):
        if table in _tables_of_scans(connection):
            query = f"SELECT {column} AS k FROM {table} WHERE scan_id = ?"
            keys.update(row["k"] for row in connection.execute(query, (scan_id,)) if row["k"])
    query = f"SELECT weights_key FROM correspondence WHERE {SAW_IT}"
    keys.update(row["weights_key"] for row in connection.execute(query, (scan_id,)))
    return keys


def _tables_of_scans(connection: sqlite3.Connection) -> list[str]:
    """All tables with rows of single scans, `scans` itself last: the others point to it."""
    query = (
        "SELECT tables.name AS name FROM sqlite_master AS tables "
        "JOIN pragma_table_info(tables.name) AS columns "
        "WHERE tables.type = 'table' AND columns.name = 'scan_id' "
        "ORDER BY tables.name = 'scans', tables.name"
    )
    return [row["name"] for row in connection.execute(query) if row["name"] not in KEPT]


def _drop_rows(connection: sqlite3.Connection, scan_id: str) -> dict[str, int]:
    return {
        table: connection.execute(f"DELETE FROM {table} WHERE scan_id = ?", (scan_id,)).rowcount
        for table in _tables_of_scans(connection)
    }


def _drop_quarantined(connection: sqlite3.Connection, case: str) -> int:
    """Cases of that name, and others whose reason, as earlier versions wrote it, names it."""
    query = "DELETE FROM quarantine WHERE case_name = ? OR instr(reason, ?) > 0"
    return connection.execute(query, (case, repr(case))).rowcount


def _drop_networks(connection: sqlite3.Connection, scan_id: str) -> int:
    """The hospital's own correspondence networks that learned from it; learned anew when needed."""
    return connection.execute(f"DELETE FROM correspondence WHERE {SAW_IT}", (scan_id,)).rowcount


def _drop_from_memories(connection: sqlite3.Connection, scan_id: str) -> int:
    """Takes the scan out of what was ever offered to a memory; the entries go with the rows."""
    query = (
        "SELECT federation, round, offered FROM rounds "
        "WHERE EXISTS (SELECT 1 FROM json_each(rounds.offered) WHERE value = ?)"
    )
    rows = connection.execute(query, (scan_id,)).fetchall()
    for row in rows:
        offered = [one for one in json.loads(row["offered"]) if one != scan_id]
        connection.execute(
            "UPDATE rounds SET offered = ? WHERE federation = ? AND round = ?",
            (json.dumps(offered), row["federation"], row["round"]),
        )
    return len(rows)


def _replies_of(store: Store, uses: Sequence[Use]) -> list[str]:
    """The stored replies and models, as paths below the store, that were trained on a scan."""
    return [
        str(path.relative_to(store.folder))
        for path in sorted((store.folder / "rounds").glob("*/*-*.*"))
        if any(_trained_in(use, path.parent.name, path.name) for use in uses)
    ]


def _trained_in(use: Use, federation: str, reply: str) -> bool:
    number = reply.partition("-")[0]  # names start with the round
    is_training = use.federation == federation and use.part != "scored"
    return is_training and f"{use.first_round:05d}" <= number <= f"{use.last_round:05d}"


def _audit_rows_naming(connection: sqlite3.Connection, telling: Sequence[str]) -> list[int]:
    rows = connection.execute("SELECT number, details FROM audit ORDER BY number")
    # Other letters than those of English are numbers in JSON.
    as_text = ((row["number"], str(json.loads(row["details"]))) for row in rows)
    return [number for number, details in as_text if tells(details, telling)]


def _finish(store: Store) -> list[Proof]:
    """Ends the withdrawals whose rows are gone: files, bytes of the catalog, proof in the log."""
    scan_ids = unfinished_withdrawals(store)
    if not scan_ids:
        return []
    with store.read() as connection:
        marks = ", ".join("?" for _ in scan_ids)
        query = f"SELECT proof FROM withdrawn WHERE scan_id IN ({marks}) ORDER BY scan_id"
        proofs = [_from_json(row["proof"]) for row in connection.execute(query, scan_ids)]
    # All that nobody points to, not this scan's alone: an array of an earlier way of normalising,
    # or of a label map that was dropped, no longer says whose it was.
    removed = remove_leftovers(store)
    store.rewrite()
    with store.connect() as connection:
        for proof in proofs:
            details = {**asdict(proof), "leftovers_removed": len(removed)}
            add_row(store, connection, "withdrawn", details)
            query = "UPDATE withdrawn SET proof = NULL WHERE scan_id = ?"
            connection.execute(query, (proof.scan_id,))
    settle_head(store)
    return proofs


def _from_json(text: str) -> Proof:
    values = json.loads(text)
    values["uses"] = tuple(Use(**use) for use in values["uses"])
    for key in ("arrays", "shared_arrays", "replies", "named_in_audit", "derived"):
        values[key] = tuple(values.get(key, ()))
    return Proof(**values)
