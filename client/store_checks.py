"""Whether a store is whole: catalog, arrays, log, policy."""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta

from client.check import Check
from client.policy import POLICY_FILE, read_policy
from client.store.arrays import is_whole, remove_array
from client.store.audit import newest_time, verify_audit
from client.store.leftovers import (
    find_leftovers,
    keys_pointed_to,
    remove_leftovers,
    rows_pointing_to,
)
from client.store.lock import alone
from client.store.store import Store
from client.store.withdrawn import unfinished_withdrawals
from common.errors import SettingsError, StoreError

PATIENCE_S = 10.0
# Rows that are made again when they are missing; all others hold what somebody gave or painted.
MADE_AGAIN = {"label_maps", "correspondence", "own_networks"}
RESTORE = "restore the whole folder from a backup, the catalog and the arrays together"
Progress = Callable[[Iterable[str]], Iterable[str]]


def check_catalog(store: Store) -> Check:
    """SQLite's own check of the file, and rows that point to rows."""
    with store.read() as connection:
        found = connection.execute("PRAGMA integrity_check(3)").fetchall()
        dangling = connection.execute("PRAGMA foreign_key_check").fetchall()
    errors = [str(row[0]) for row in found if row[0] != "ok"]
    errors += [f"a row of {row['table']} belongs to no row of {row['parent']}" for row in dangling]
    size_mb = store.catalog.stat().st_size / 1e6
    if errors:
        return Check("catalog", f"{size_mb:.1f} MB", "; ".join(errors[:3]), RESTORE)
    return Check("catalog", f"{size_mb:.1f} MB, sound")


def check_arrays(store: Store, *, quick: bool, clean: bool, progress: Progress) -> Check:
    """Every array that a row points to is there and, unless `quick`, holds what its name says.

    With `clean`, what can be made again (label maps, own networks) is dropped where it is damaged.
    """
    with store.read() as connection:
        keys = sorted(keys_pointed_to(connection))
    bad = [key for key in progress(keys) if not is_whole(store, key, look_inside=not quick)]
    how = "there" if quick else "there and whole"
    found = f"{len(keys) - len(bad)} of {len(keys)} are {how}"
    if clean:
        bad = _drop_what_can_be_made_again(store, bad)
    if not bad:
        return Check("arrays", found)
    with store.read() as connection:
        pointing = rows_pointing_to(connection, bad)
    tables = sorted({table for rows in pointing.values() for table, _ in rows})
    return Check(
        "arrays", found, f"{len(bad)} missing or damaged, of {', '.join(tables)}", _cure(tables)
    )


def _cure(tables: list[str]) -> str:
    cures = []
    if MADE_AGAIN & set(tables):
        cures.append("run doctor --clean: label maps and own networks are made again")
    if "scans" in tables:
        cures.append("delete the damaged files and ingest the same scans again")
    if set(tables) - MADE_AGAIN - {"scans"}:
        cures.append(RESTORE)
    return "; ".join(cures)


def _drop_what_can_be_made_again(store: Store, keys: list[str]) -> list[str]:
    """Drops derived rows that point to these arrays; the arrays that other rows point to."""
    left = []
    with alone(store, patience_s=PATIENCE_S), store.connect() as connection:
        for key, rows in rows_pointing_to(connection, keys).items():
            for table, rowid in rows:
                if table in MADE_AGAIN:
                    connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (rowid,))
            if {table for table, _ in rows} <= MADE_AGAIN:
                remove_array(store, key)
            else:
                left.append(key)
    return left


def check_leftovers(store: Store, *, clean: bool) -> Check:
    """Files that nothing points to; with `clean` they are removed."""
    if clean:
        with alone(store, patience_s=PATIENCE_S):
            removed = remove_leftovers(store)
        size_mb = sum(one.num_bytes for one in removed) / 1e6
        return Check("leftovers", f"{len(removed)} removed, {size_mb:.1f} MB")
    found = find_leftovers(store)
    size_mb = sum(one.num_bytes for one in found) / 1e6
    if not found:
        return Check("leftovers", "none")
    return Check(
        "leftovers",
        f"{len(found)} files, {size_mb:.1f} MB",
        "ended processes left files that nothing points to",
        "when nothing runs on the store: doctor --clean",
    )


def check_withdrawals(store: Store) -> Check:
    """None was interrupted."""
    unfinished = unfinished_withdrawals(store)
    if not unfinished:
        return Check("withdrawals", "none unfinished")
    to_do = f"run it again: oneslice hospital forget {unfinished[0]}"
    return Check("withdrawals", ", ".join(unfinished), "a withdrawal was interrupted", to_do)


def check_audit(store: Store) -> Check:
    """The chain of the audit log."""
    try:
        head = verify_audit(store)
    except StoreError as error:
        return Check("audit log", "changed", str(error), "see docs/hospital.md, the audit log")
    return Check("audit log", f"{head.number} rows, whole")


def check_policy(store: Store) -> Check:
    """The site's own policy can be read."""
    path = store.folder / POLICY_FILE
    try:
        read_policy(store.folder)
    except SettingsError as error:
        to_do = f"mend {path}; until then no round is answered"
        return Check("policy", "cannot be used", str(error), to_do)
    return Check("policy", str(path) if path.exists() else "no file: the defaults hold")


def check_clock(store: Store) -> Check:
    """The clock is not before the newest row of the log."""
    now = datetime.now(UTC)
    found = f"{now.astimezone():%Y-%m-%d %H:%M:%S %z}"
    last = newest_time(store)
    newest = now if last is None else datetime.fromisoformat(last)
    if newest > now + timedelta(seconds=1):
        problem = f"the newest row of the audit log is from {newest:%Y-%m-%d %H:%M} UTC, after now"
        return Check("clock", found, problem, "set the machine's clock, best by a time server")
    return Check("clock", found)
