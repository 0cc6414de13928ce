"""Nothing of a withdrawn scan is left on the disk, and what is left proves it."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from client.store.annotations import latest_annotations, save_annotation
from client.store.arrays import load_array, save_array
from client.store.audit import newest_row, read_audit, verify_audit, write_audit
from client.store.claims import claim_scan
from client.store.correspondence import Learned, load_learned, save_learned
from client.store.drafts import save_draft
from client.store.forget import Proof, forget
from client.store.identities import Identity, save_identity
from client.store.ingest import ingest_cases
from client.store.label_maps import MadeFrom, find_label_map, load_label_map, save_label_map
from client.store.layouts import find_cases
from client.store.leftovers import find_leftovers
from client.store.lock import alone, among_others
from client.store.received_models import keep_received
from client.store.reviews import save_review
from client.store.rounds import (
    HospitalState,
    Memory,
    Remembered,
    commit_round,
    find_reply,
    load_state,
)
from client.store.scans import find_scan, list_scans, load_scan, scans_as_they_came
from client.store.status import read_status
from client.store.store import Store
from client.store.uses import Use, find_uses
from client.store.withdrawn import unfinished_withdrawals
from common.errors import SettingsError, StoreError
from common.plan import Earlier, FederationPlan, Task
from common.scans import LabelMap, SliceAnnotation, SliceRef
from common.updates import RoundRequest

PATIENT, NAME = "MRN-4711-0815", "Zwerchfell^Anna"


@pytest.fixture
def patients(store: Store, scan_ids: list[str]) -> list[str]:
    """Three scans with everything that a hospital keeps of a scan; the first is Anna's."""
    for place, scan_id in enumerate(scan_ids):
        _fill(store, scan_id, place)
    names = tuple(sorted(scan_ids))
    save_learned(store, "settings", Learned(1, names[1:], np.arange(4, dtype=np.float32)))
    save_learned(store, "settings", Learned(2, names, np.arange(5, dtype=np.float32)))
    for number in (1, 2):
        entries = tuple(Remembered(one, "first", "first/1") for one in scan_ids)
        memory = Memory(entries, {"first/1": 3}, frozenset(scan_ids))
        uses = {"trained": scan_ids[:2], "scored": scan_ids[2:]}
        state = HospitalState("fed", number, {"first": 0}, memory)
        commit_round(store, state, f"{number}" * 64, b"weights", uses)
    return scan_ids


def _fill(store: Store, scan_id: str, place: int) -> None:
    patient, name = (PATIENT, NAME) if place == 0 else (f"MRN-{place}", f"Someone^{place}")
    with store.connect() as connection:
        save_identity(connection, scan_id, Identity(patient, {"name": name}))
    mask = np.zeros((5, 6), dtype=np.uint8)
    mask[1:4, 1 + place : 4] = 1
    ref = SliceRef(scan_id, 2, 1)
    for seconds in (1.0, 2.0):
        save_annotation(store, SliceAnnotation(ref, mask, (1,), "ines", seconds))
    save_draft(store, SliceRef(scan_id, 2, 2), "ines", mask, continues=(0,), seconds_spent=1)
    claim_scan(store, scan_id, "ines")
    save_review(store, scan_id, "flagged", "ines", f"looks like {name}")
    soft = np.random.default_rng(place).random((2, 5, 6, 4)).astype(np.float32)
    nowhere = np.zeros((5, 6, 4), dtype=bool)  # the same for all three
    labels = LabelMap((1,), soft, soft[0], nowhere, (1,), "propagated")
    save_label_map(store, scan_id, labels, MadeFrom("origin", "ours"))


def _traces(store: Store, scan_id: str) -> list[bytes]:
    """Bytes by which a scan's picture, labels and patient could be known."""
    row = find_scan(store, scan_id)
    image, stack = load_scan(store, scan_id).image, load_array(store, row.display_key)
    label = load_label_map(store, scan_id, "ours")
    mask = latest_annotations(store, scan_id)[0].mask
    assert row.reference_key is not None
    reference = load_array(store, row.reference_key)
    arrays = [image[0, 2], stack[1], np.asarray(label.soft)[1, 2], np.asarray(reference)[2]]
    with store.read() as connection:
        query = "SELECT mask FROM drafts WHERE scan_id = ?"
        draft = bytes(connection.execute(query, (scan_id,)).fetchone()["mask"])
    texts = [row.case.encode(), PATIENT.encode(), NAME.encode()]
    return [draft, mask.tobytes(), *(np.ascontiguousarray(one).tobytes() for one in arrays), *texts]


def _files_with(folder: Path, trace: bytes) -> list[str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path.name for path in files if trace in path.read_bytes()]


def _tables_naming(store: Store, scan_id: str) -> set[str]:
    with closing(sqlite3.connect(store.catalog)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            name
            for (name,) in tables.fetchall()
            if any(scan_id in str(row) for row in connection.execute(f"SELECT * FROM {name}"))
        }


# What goes, and what stays -----------------------------------------------------------------------


@pytest.mark.parametrize("called", ["scan", "case", "patient"])
def test_no_byte_of_a_withdrawn_scan_is_left(
    store: Store, patients: list[str], called: str
) -> None:
    anna, *others = patients
    case = find_scan(store, anna).case
    with store.connect() as connection:
        connection.execute("INSERT INTO quarantine VALUES ('second', ?, 'bad')", (case,))
        reason = f"the same scan serves the task 'first' already, as {case!r}"
        connection.execute("INSERT INTO quarantine VALUES ('second', 'copy', ?)", (reason,))
    traces = _traces(store, anna)
    as_they_came = [scan.scan_id for scan in scans_as_they_came(store, "first")]
    assert all(_files_with(store.folder, trace) for trace in traces)
    name = {"scan": anna, "case": case, "patient": PATIENT}[called]
    (proof,) = forget(store, name, "asked on the ward")
    for trace in traces:
        assert _files_with(store.folder, trace) == []
    assert _tables_naming(store, anna) == {"uses", "withdrawn", "audit"}
    assert find_leftovers(store) == []
    assert proof.rows == {
        "annotations": 2, "claims": 1, "correspondence": 1, "drafts": 1, "identities": 1,
        "label_maps": 1, "quarantine": 2, "replay": 2, "reviews": 1, "rounds": 2, "scans": 1,
    }  # fmt: skip
    # The others are whole: every array is there, in the catalog's order.
    assert [scan.scan_id for scan in list_scans(store)] == others
    as_they_came.remove(anna)
    assert [scan.scan_id for scan in scans_as_they_came(store, "first")] == as_they_came
    for one in others:
        assert find_label_map(store, one, "ours") == MadeFrom("origin", "ours")
        assert load_label_map(store, one, "ours").expert.shape == (5, 6, 4)
        assert load_scan(store, one).image.shape == (1, 5, 6, 4)
        assert len(latest_annotations(store, one)) == 1
    assert [one.part for one in load_learned(store, "settings")] == [1]


def test_the_proof_says_what_went_and_which_models_saw_the_scan(
    store: Store, patients: list[str]
) -> None:
    anna = patients[0]
    row = find_scan(store, anna)
    with store.read() as connection:
        query = "SELECT expert_key FROM label_maps WHERE scan_id = ?"
        shared = connection.execute(query, (anna,)).fetchone()["expert_key"]
    (proof,) = forget(store, anna, "asked on the ward")
    assert {row.image_key, row.reference_key, row.display_key} <= set(proof.arrays)
    assert proof.shared_arrays == (shared,)
    assert proof.uses == (Use("fed", anna, "trained", 1, 2),)
    assert proof.replies == tuple(f"rounds/fed/0000{n}-{str(n) * 16}.reply" for n in (1, 2))
    assert (proof.reason, proof.named_in_audit) == ("asked on the ward", ())
    logged = newest_row(store, "withdrawn")
    assert logged is not None
    details = json.loads(logged.details)
    assert {key: details[key] for key in ("scan_id", "rows", "reason")} == {
        "scan_id": anna, "rows": proof.rows, "reason": proof.reason
    }  # fmt: skip
    assert details["arrays"] == list(proof.arrays)
    verify_audit(store)
    assert unfinished_withdrawals(store) == []


def test_the_proof_names_federations_that_went_on_from_models_that_saw_the_scan(
    store: Store, patients: list[str], plan: FederationPlan
) -> None:
    def receive(name: str, federation: str) -> str:
        """Models of a federation that went on from the first round of another one."""
        earlier = Earlier(federation=federation, round=1)
        grown = plan.model_copy(update={"name": name, "extends": earlier})
        request = RoundRequest(action="score", plan=grown, round=2)
        keep_received(store, request, {"a": np.ones(2, np.float32)})
        return grown.federation

    # It trained in the first round of one federation, in the second alone of another.
    early, late = "early-00000000", "late-00000000"
    for federation, number in ((early, 1), (late, 2)):
        state = HospitalState(federation, number, {"first": 0})
        uses = {"trained": patients[:1], "scored": patients[2:]}
        commit_round(store, state, f"{number}" * 64, b"weights", uses)
    second = receive("second", early)
    third = receive("third", second)
    receive("other", late)
    (proof,) = forget(store, patients[0])
    assert proof.derived == (second, third)
    (scored,) = forget(store, patients[2])
    assert scored.derived == ()


def test_the_memory_loads_without_the_scan_and_its_replies_are_not_sent_again(
    store: Store, patients: list[str]
) -> None:
    anna, _, scored = patients
    forget(store, anna)
    state = load_state(store, "fed", 2)
    assert [entry.scan_id for entry in state.memory.entries] == patients[1:]
    assert state.memory.offered == set(patients[1:])
    # Weights are no data: the file stays as the hospital's model, but it does not leave any more.
    assert find_reply(store, "fed", 2, "2" * 64) is None
    commit_round(store, state, "3" * 64, b"without", {"trained": patients[1:2]})
    assert find_reply(store, "fed", 2, "3" * 64) == b"without"
    # A scan that was only scored is in no model.
    (proof,) = forget(store, scored)
    assert proof.replies == ()
    assert find_reply(store, "fed", 2, "3" * 64) == b"without"
    assert find_uses(store, scored) == [Use("fed", scored, "scored", 1, 1)]


def test_old_versions_that_nothing_points_to_go_too(store: Store, patients: list[str]) -> None:
    """An array of an earlier normalisation holds the picture, and no row says whose it is."""
    key = save_array(store, load_scan(store, patients[0]).image * np.float32(2))
    forget(store, patients[0])
    assert not list(store.folder.rglob(f"{key}.npy"))


def test_bytes_of_rows_that_were_deleted_earlier_go_too(store: Store, patients: list[str]) -> None:
    """SQLite keeps them in its file unless it was built to clear them."""
    secrets = [f"{NAME} {'x' * 900} {number}" for number in range(20)]
    with closing(sqlite3.connect(store.catalog)) as connection, connection:
        connection.execute("PRAGMA secure_delete = OFF")
        rows = [(patients[0], 10 + place, text) for place, text in enumerate(secrets)]
        query = "INSERT INTO reviews VALUES (?, ?, 'flagged', 'ines', ?, '2026')"
        connection.executemany(query, rows)
        connection.commit()
        connection.execute("DELETE FROM reviews WHERE number >= 10")
    assert any(_files_with(store.folder, text.encode()) for text in secrets)
    forget(store, patients[0])
    for text in (NAME, "x" * 64):
        assert _files_with(store.folder, text.encode()) == []


def test_all_scans_of_a_patient_go(store: Store, patients: list[str]) -> None:
    with store.connect() as connection:
        query = "UPDATE identities SET patient = ? WHERE scan_id = ?"
        connection.execute(query, (PATIENT, patients[2]))
    proofs = forget(store, PATIENT)
    assert [proof.scan_id for proof in proofs] == sorted([patients[0], patients[2]])
    assert [scan.scan_id for scan in list_scans(store)] == [patients[1]]


# What is refused --------------------------------------------------------------------------------


def test_an_unknown_name_is_refused_and_nothing_changes(store: Store, patients: list[str]) -> None:
    with pytest.raises(StoreError, match="no scan, case or patient is called 'nobody'"):
        forget(store, "nobody")
    assert len(list_scans(store)) == 3
    forget(store, patients[0])
    with pytest.raises(StoreError, match=r"was withdrawn on 20.* already; nothing of it is left"):
        forget(store, patients[0])
    with store.connect() as connection:
        row = ("first", "x", "a label named ''")
        connection.execute("INSERT INTO quarantine VALUES (?, ?, ?)", row)
    with pytest.raises(StoreError, match="no scan, case or patient is called ''"):
        forget(store, "")
    assert read_status(store).quarantine == (row,)


def test_a_name_that_means_two_scans_is_refused(store: Store, patients: list[str]) -> None:
    case = find_scan(store, patients[1]).case
    with store.connect() as connection:
        query = "UPDATE identities SET patient = ? WHERE scan_id = ?"
        connection.execute(query, (case, patients[0]))
    with pytest.raises(StoreError, match=r"means different scans .*as a patient.*as a case"):
        forget(store, case)
    assert len(list_scans(store)) == 3


@pytest.mark.parametrize("spell", [str, str.upper, lambda name: " ".join(name.split("^")[::-1])])
def test_a_reason_that_names_the_patient_is_refused(
    store: Store, patients: list[str], spell: Callable[[str], str]
) -> None:
    with pytest.raises(SettingsError, match="reason names the patient"):
        forget(store, patients[0], f"{spell(NAME)} called")
    assert len(list_scans(store)) == 3


def test_a_name_in_the_audit_log_is_told(store: Store, patients: list[str]) -> None:
    write_audit(store, "failed", {"error": f"/pacs/{NAME}/1.dcm is damaged"})
    write_audit(store, "failed", {"error": "another scan is damaged"})
    write_audit(store, "failed", {"error": f"/pacs/{NAME.lower()}/2.dcm is damaged"})
    (proof,) = forget(store, patients[0])
    assert proof.named_in_audit == (1, 3)
    verify_audit(store)


def test_it_waits_for_whoever_adds_to_the_store(store: Store, patients: list[str]) -> None:
    with (
        among_others(store),
        among_others(store),
        pytest.raises(StoreError, match="is in use: a round, an ingest or a page"),
    ):
        forget(store, patients[0], patience_s=0.1)
    assert len(list_scans(store)) == 3
    with alone(store, patience_s=0), pytest.raises(StoreError, match="is in use"):
        forget(store, patients[0], patience_s=0.1)


def test_a_catalog_that_is_being_read_is_not_called_clean(
    store: Store, patients: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("client.store.store.BUSY_S", 0.1)
    with store.read() as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT * FROM scans").fetchone()
        with pytest.raises(StoreError, match=r"is being read|database is locked"):
            forget(store, patients[0])
    assert unfinished_withdrawals(store) == [patients[0]]
    (proof,) = forget(store, patients[0])
    assert proof.scan_id == patients[0]


# Coming back ------------------------------------------------------------------------------------


def test_a_withdrawn_scan_is_refused_when_it_comes_again(
    store: Store, patients: list[str], task: Task, plain_folder: Path
) -> None:
    anna = patients[0]
    case, traces = find_scan(store, anna).case, _traces(store, anna)
    forget(store, anna)
    dataset = find_cases(plain_folder)
    report = ingest_cases(store, dataset, dataset.cases, task=task)
    assert (report.added, report.already_known) == (0, 2)
    ((refused, why),) = report.quarantined
    assert refused == case
    assert "withdrawn on 20" in why
    assert "--again-allowed" in why
    for trace in traces:
        assert _files_with(store.folder, trace) == []
    report = ingest_cases(store, dataset, dataset.cases, task=task, again_allowed=[case])
    assert (report.added, report.already_known) == (1, 2)
    assert newest_row(store, "allowed_again") is not None
    # It can go a second time.
    (proof,) = forget(store, anna)
    assert proof.rows["scans"] == 1


@pytest.mark.parametrize("called", ["scan", "other", "case", "other case", "patient"])
def test_a_scan_goes_for_all_tasks_that_it_serves(
    store: Store, patients: list[str], plan: FederationPlan, plain_folder: Path, called: str
) -> None:
    anna, *others = patients
    case, second = find_scan(store, anna).case, plan.tasks[1]
    # For the second task it came under another name, without a number.
    for kind in ("images", "labels"):
        (plain_folder / kind / f"{case}.nii.gz").rename(plain_folder / kind / "renamed.nii.gz")
    dataset = find_cases(plain_folder)
    assert ingest_cases(store, dataset, dataset.cases, task=second).serve_others == 3
    traces, ids = _traces(store, anna), [anna, f"{anna}-second"]
    names = {"scan": anna, "other": ids[1], "case": case, "other case": "renamed"}
    proofs = forget(store, names.get(called, PATIENT))
    assert [proof.scan_id for proof in proofs] == ids
    # What both have is gone with both, and no other scan's.
    assert set(proofs[1].arrays) < set(proofs[0].arrays)
    assert [len(proof.shared_arrays) for proof in proofs] == [1, 0]
    for trace in traces:
        assert _files_with(store.folder, trace) == []
    left = [scan.scan_id for scan in list_scans(store)]
    assert left == sorted([*others, *(f"{one}-second" for one in others)])
    # Neither task may have it back; let in for one, it may come for the other, too.
    for task in plan.tasks:
        ((refused, why),) = ingest_cases(store, dataset, dataset.cases, task=task).quarantined
        assert (refused, "may not come back" in why) == ("renamed", True)
    again = ["renamed"]
    report = ingest_cases(store, dataset, dataset.cases, task=second, again_allowed=again)
    assert (report.added, report.serve_others, report.quarantined) == (1, 0, ())
    assert ingest_cases(store, dataset, dataset.cases, task=plan.tasks[0]).serve_others == 1
    assert {scan.scan_id for scan in list_scans(store) if scan.case == "renamed"} == {
        anna, f"{anna}-first"
    }  # fmt: skip


def test_a_name_that_is_in_quarantine_alone_goes(store: Store, patients: list[str]) -> None:
    with store.connect() as connection:
        connection.execute("INSERT INTO quarantine VALUES ('first', 'Meier^Jo', 'damaged')")
    assert forget(store, "Meier^Jo") == []
    assert _files_with(store.folder, b"Meier^Jo") == []
    assert len(list_scans(store)) == 3


# Killed -----------------------------------------------------------------------------------------

KILLED_AT = """
import os, signal, sys
from pathlib import Path
import client.store.forget as forget
from client.store.store import Store, open_store

folder, step = sys.argv[1:3]
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
def first(path, missing_ok=False):
    os.remove(path); die()
if step == "files":
    Path.unlink = first
else:
    setattr(Store if step == "rewrite" else forget, step, die)
forget.forget(open_store(Path(folder)), sys.argv[3])
"""
STEPS = ["keys_pointed_to", "remove_leftovers", "files", "rewrite", "add_row", "settle_head"]


@pytest.mark.parametrize("step", STEPS)
def test_a_withdrawal_that_is_killed_is_ended_by_the_next(
    store: Store, patients: list[str], step: str
) -> None:
    anna = patients[0]
    traces = _traces(store, anna)
    command = [sys.executable, "-c", KILLED_AT, str(store.folder), step, PATIENT]
    killed = subprocess.run(
        command, cwd=Path(__file__).parents[3], env=dict(os.environ), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    is_over = step == "settle_head"
    if is_over:
        with pytest.raises(StoreError, match=r"withdrawn on .* already"):
            forget(store, anna)
    else:
        (proof,) = forget(store, PATIENT)
        assert isinstance(proof, Proof)
        assert (proof.scan_id, proof.rows["scans"]) == (anna, 1)
    for trace in traces:
        assert _files_with(store.folder, trace) == []
    assert find_leftovers(store) == []
    verify_audit(store)
    assert [row.event for row in read_audit(store)] == ["withdrawn"]
    for other in patients[1:]:
        assert load_label_map(store, other, "ours").expert.shape == (5, 6, 4)
