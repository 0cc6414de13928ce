"""Each thing that can be wrong is found, with what to do; a sound hospital has no problem."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from hospital_rounds import ask
from packaging.requirements import Requirement

from client import machine_checks
from client.check import Check
from client.doctor import examine
from client.local_round import Hospital
from client.machine_checks import TESTED, check_disk, check_memory, check_packages
from client.store.arrays import save_array
from client.store.audit import verify_audit, write_audit
from client.store.forget import forget
from client.store.label_maps import find_label_map
from client.store.scans import list_scans
from client.store.store import Store
from client.store.trial_copy import trial_copy
from common.plan import FederationPlan

MakePlan = Callable[..., FederationPlan]
MakeHospital = Callable[..., Hospital]
Paint = Callable[..., None]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(make_hospital: MakeHospital) -> Store:
    """Six scans, nothing painted."""
    return make_hospital().store


def look(
    store: Store, plan: FederationPlan | None = None, *, quick: bool = False, clean: bool = False
) -> dict[str, Check]:
    checks = examine(store.folder, plan, quick=quick, clean=clean, progress=list)
    return {check.check: check for check in checks}


def problems(checks: dict[str, Check]) -> list[str]:
    assert all(bool(check.problem) == bool(check.what_to_do) for check in checks.values())
    return [name for name, check in checks.items() if check.problem]


# A sound hospital -------------------------------------------------------------------------------


def test_a_sound_hospital_has_no_problem(store: Store, make_plan: MakePlan) -> None:
    write_audit(store, "sending", {})
    checks = look(store, make_plan())
    assert problems(checks) == []
    assert checks["arrays"].found == "18 of 18 are there and whole"
    assert checks["audit log"].found == "1 rows, whole"
    assert checks["leftovers"].found == "none"
    assert "segmenter" in checks["networks"].found
    assert "student" in checks["networks"].found
    assert "about 0.7 GB needed" in checks["memory"].found


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    assert pinned == TESTED


# Machine ----------------------------------------------------------------------------------------


def test_a_package_that_is_missing_or_out_of_range_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wanted = ["numpy", "no-such-package-at-all", "typer>=900", "torch"]
    monkeypatch.setattr(machine_checks.metadata, "requires", lambda _: wanted)
    monkeypatch.setitem(machine_checks.TESTED, "torch", "0.1")
    checks = {check.check: check for check in check_packages()}
    assert problems(checks) == ["package no-such-package-at-all", "package typer"]
    assert checks["package typer"].what_to_do == "pip install 'typer>=900'"
    assert "(tested: 0.1)" in checks["package torch"].found


def test_every_required_package_is_looked_at() -> None:
    wanted = {Requirement(text).name for text in metadata.requires("oneslice") or ()}
    found = {check.check.removeprefix("package ") for check in check_packages()}
    assert {"torch", "monai", "flwr", "pydantic"} <= found <= wanted


def test_too_little_disk_or_memory_is_a_problem(tmp_path: Path) -> None:
    assert check_disk(tmp_path, 0).problem == ""
    assert check_disk(tmp_path, 1e18).problem == "the disk will be full"
    assert check_memory(0.01).problem == ""
    assert check_memory(1e9).problem == "a round may be killed for memory"


# Store ------------------------------------------------------------------------------------------


def test_no_store_and_a_store_that_is_none(tmp_path: Path) -> None:
    checks = look(Store(tmp_path, ""))
    assert problems(checks) == ["store"]
    assert "hospital init" in checks["store"].what_to_do
    (tmp_path / "catalog.sqlite").write_bytes(b"no database at all" * 100)
    assert problems(look(Store(tmp_path, ""))) == ["store"]


def test_a_damaged_array_is_found_unless_quick(store: Store) -> None:
    key = list_scans(store)[0].image_key
    (path,) = store.folder.rglob(f"{key}.npy")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert problems(look(store, quick=True)) == []
    checks = look(store)
    assert problems(checks) == ["arrays"]
    assert checks["arrays"].problem == "1 missing or damaged, of scans"
    assert "ingest the same scans again" in checks["arrays"].what_to_do
    path.unlink()
    assert problems(look(store, quick=True)) == ["arrays"]
    # Cleaning takes nothing away that cannot be made again.
    assert problems(look(store, clean=True)) == ["arrays"]
    assert len(list_scans(store)) == 6


def test_a_damaged_label_map_is_dropped_and_made_again(
    make_hospital: MakeHospital, make_plan: MakePlan, paint: Paint
) -> None:
    hospital, plan = make_hospital(), make_plan()
    paint(hospital, plan, "first")
    ask(hospital, plan, 1)
    store, scan_id = hospital.store, list_scans(hospital.store, "first")[0].scan_id
    with store.read() as connection:
        query = "SELECT soft_key FROM label_maps WHERE scan_id = ?"
        key = connection.execute(query, (scan_id,)).fetchone()["soft_key"]
    (path,) = store.folder.rglob(f"{key}.npy")
    path.write_bytes(b"damaged")
    checks = look(store)
    assert checks["arrays"].problem == "1 missing or damaged, of label_maps"
    assert "doctor --clean" in checks["arrays"].what_to_do
    assert problems(look(store, clean=True)) == []
    assert find_label_map(store, scan_id, plan.federation) is None
    assert ask(hospital, plan, 2).note.outcome == "trained"
    assert problems(look(store)) == []


def test_leftovers_are_counted_and_cleaned(store: Store) -> None:
    save_array(store, np.zeros(1000, dtype=np.uint8))
    with trial_copy(store):  # what a dry run leaves that is killed
        assert look(store, quick=True)["leftovers"].found.startswith("2 files")
    checks = look(store)
    assert problems(checks) == ["leftovers"]
    assert checks["leftovers"].found == "1 files, 0.0 MB"
    assert look(store, clean=True)["leftovers"].found == "1 removed, 0.0 MB"
    assert problems(look(store)) == []


def test_an_interrupted_withdrawal_is_found(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    scan_id = list_scans(store)[0].scan_id
    with monkeypatch.context() as patched:
        patched.setattr("client.store.forget.remove_leftovers", lambda _: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            forget(store, scan_id)
    checks = look(store)
    assert problems(checks) == ["withdrawals", "leftovers"]
    assert checks["withdrawals"].what_to_do.endswith(f"oneslice hospital forget {scan_id}")
    forget(store, scan_id)
    assert problems(look(store)) == []


def test_a_changed_log_a_broken_policy_and_a_slow_clock_are_found(
    store: Store,
) -> None:
    write_audit(store, "sending", {})
    (store.folder / "policy.toml").write_text("hours = 3", encoding="utf-8")
    with store.connect() as connection:
        connection.execute("UPDATE audit SET time = '2200-01-01T00:00:00.000+00:00'")
    checks = look(store, quick=True)
    assert problems(checks) == ["audit log", "clock", "policy"]
    assert "after now" in checks["clock"].problem
    assert "no round is answered" in checks["policy"].what_to_do


def test_rows_without_their_scan_are_found(store: Store) -> None:
    with closing(sqlite3.connect(store.catalog)) as connection, connection:
        connection.execute("INSERT INTO claims VALUES ('scan-of-nobody', 'ines', 0)")
    checks = look(store, quick=True)
    assert problems(checks) == ["catalog"]
    assert "a row of claims belongs to no row of scans" in checks["catalog"].problem
    verify_audit(store)


def test_a_page_torn_out_of_the_catalog_is_a_problem_and_no_crash(store: Store) -> None:
    with store.catalog.open("r+b") as file:
        file.seek(4096 * 3)
        file.write(b"\xff" * 4096 * 4)
    found = problems(look(store, quick=True))
    assert found
    assert set(found) <= {"store", "catalog", "arrays", "audit log"}
