"""The scans of the catalog, and what can be read of each."""

import json
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import UInt8

from client.store.arrays import load_array
from client.store.display import Display
from client.store.orientation import OriginalGeometry
from client.store.store import Store
from common.errors import LabelDictionaryError, StoreError
from common.label_names import comparable_name
from common.plan import FederationPlan
from common.scans import Geometry, Modality, Scan

# As `common.scans.volume_of`: the ids of one volume ('.' is the character after '-'), and a row's.
OF_VOLUME = "scan_id >= :volume AND scan_id < :volume || '.'"
ITS_VOLUME = "substr({}scan_id, 1, 21)"


@dataclass(frozen=True)
class CatalogScan:
    """One row: which file it was, which task it serves, where its arrays lie."""

    scan_id: str
    case: str
    task: str
    modality: Modality
    geometry: Geometry
    original: OriginalGeometry
    image_key: str
    reference_key: str | None
    label_names: dict[int, str]
    label_voxels: dict[int, int]
    display_key: str
    display: Display


def list_scans(store: Store, task: str | None = None) -> list[CatalogScan]:
    """The scans of a task, or all, by scan_id."""
    with store.read() as connection:
        if task is None:
            rows = connection.execute("SELECT * FROM scans ORDER BY scan_id").fetchall()
        else:
            query = "SELECT * FROM scans WHERE task = ? ORDER BY scan_id"
            rows = connection.execute(query, (task,)).fetchall()
    return [_from_row(row) for row in rows]


def scans_of_case(store: Store, case: str) -> list[CatalogScan]:
    """The scans that came under a name, by scan_id; a name may have come for several tasks."""
    with store.read() as connection:
        query = "SELECT * FROM scans WHERE case_name = ? ORDER BY scan_id"
        rows = connection.execute(query, (case,)).fetchall()
    return [_from_row(row) for row in rows]


def scans_as_they_came(store: Store, task: str) -> list[CatalogScan]:
    """The scans of a task in the order in which they were registered."""
    with store.read() as connection:
        query = "SELECT * FROM scans WHERE task = ? ORDER BY rowid"
        rows = connection.execute(query, (task,)).fetchall()
    return [_from_row(row) for row in rows]


def lookup_scan(store: Store, scan_id: str) -> CatalogScan | None:
    """One scan; None if there is none of that id."""
    with store.read() as connection:
        query = "SELECT * FROM scans WHERE scan_id = ?"
        row = connection.execute(query, (scan_id,)).fetchone()
    return None if row is None else _from_row(row)


def lookup_scans(store: Store, scan_ids: Sequence[str]) -> dict[str, CatalogScan]:
    """Those of the scans that there are."""
    query = "SELECT * FROM scans WHERE scan_id IN (SELECT value FROM json_each(?))"
    with store.read() as connection:
        rows = connection.execute(query, (json.dumps(list(scan_ids)),)).fetchall()
    return {row["scan_id"]: _from_row(row) for row in rows}


def find_scan(store: Store, scan_id: str) -> CatalogScan:
    """One scan.

    Raises:
        StoreError: there is none of that id.
    """
    scan = lookup_scan(store, scan_id)
    if scan is None:
        raise StoreError(f"{store.hospital} has no scan {scan_id!r}")
    return scan


def place_of_scan(store: Store, scan: CatalogScan) -> int:
    """How many scans of its task came before it."""
    with store.read() as connection:
        query = (
            "SELECT COUNT(*) FROM scans WHERE task = ? "
            "AND rowid < (SELECT rowid FROM scans WHERE scan_id = ?)"
        )
        return int(connection.execute(query, (scan.task, scan.scan_id)).fetchone()[0])


def insert_scan(connection: sqlite3.Connection, scan: CatalogScan) -> None:
    """Adds a scan's row; the arrays must be stored already."""
    connection.execute(
        "INSERT INTO scans VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            scan.scan_id,
            scan.case,
            scan.task,
            scan.modality,
            json.dumps(asdict(scan.geometry)),
            json.dumps(asdict(scan.original)),
            scan.image_key,
            scan.reference_key,
            json.dumps(scan.label_names),
            json.dumps(scan.label_voxels),
            scan.display_key,
            json.dumps(asdict(scan.display)),
        ),
    )


def refresh_scan(connection: sqlite3.Connection, scan: CatalogScan) -> None:
    """Takes over what a scan that came again brings: its normalisation, and a label if it has one.

    A label that came before stays if the scan comes without one.
    """
    connection.execute(
        "UPDATE scans SET modality = ?, image_key = ?, display_key = ?, display = ? "
        "WHERE scan_id = ?",
        (
            scan.modality,
            scan.image_key,
            scan.display_key,
            json.dumps(asdict(scan.display)),
            scan.scan_id,
        ),
    )
    if scan.reference_key is None:
        return
    connection.execute(
        "UPDATE scans SET reference_key = ?, label_names = ?, label_voxels = ? WHERE scan_id = ?",
        (
            scan.reference_key,
            json.dumps(scan.label_names),
            json.dumps(scan.label_voxels),
            scan.scan_id,
        ),
    )


def ids_of_volume(connection: sqlite3.Connection, volume_id: str) -> dict[str, str]:
    """The tasks that a volume serves, each with the scan_id that it has there."""
    query = f"SELECT task, scan_id FROM scans WHERE {OF_VOLUME}"
    rows = connection.execute(query, {"volume": volume_id})
    return {row["task"]: row["scan_id"] for row in rows}


def each_image_once(scans: Sequence[CatalogScan], axis_of: Mapping[str, int]) -> list[CatalogScan]:
    """The first of those that have the same image, and by their tasks the same axis."""
    first: dict[tuple[str, int], CatalogScan] = {}
    for scan in scans:
        first.setdefault((scan.image_key, axis_of[scan.task]), scan)
    return list(first.values())


def load_scan(store: Store, scan_id: str) -> Scan:
    """The normalised volume, memory-mapped."""
    row = find_scan(store, scan_id)
    return Scan(scan_id, load_array(store, row.image_key), row.geometry, row.modality)


def read_reference(store: Store, scan_id: str, plan: FederationPlan) -> UInt8[np.ndarray, "i j k"]:
    """The full label that came with the scan, its values turned into the plan's label indexes.

    Values are matched by name where the data set names them, else by number; others become 0.

    Raises:
        StoreError: the scan came without a label.
    """
    row = find_scan(store, scan_id)
    if row.reference_key is None:
        raise StoreError(f"scan {scan_id} ({row.case}) came without a full label")
    lookup = np.zeros(256, dtype=np.uint8)
    for value, index in plan_indexes(row.label_names, row.label_voxels, plan).items():
        lookup[value] = index
    reference: UInt8[np.ndarray, "i j k"] = lookup[load_array(store, row.reference_key)]
    return reference


def plan_indexes(
    names: dict[int, str], voxels: dict[int, int], plan: FederationPlan
) -> dict[int, int]:
    """Which of a data set's label values are which of the plan's labels."""
    if names:
        index_of = {comparable_name(label.name): label.index for label in plan.labels}
        pairs = {value: index_of.get(comparable_name(name)) for value, name in names.items()}
        return {value: index for value, index in pairs.items() if index is not None}
    known = {label.index for label in plan.labels}
    return {value: value for value in voxels if value in known}


def count_quarantined(store: Store, task: str | None = None) -> int:
    """How many cases could not be used, of a task or in all."""
    with store.read() as connection:
        query = "SELECT COUNT(*) FROM quarantine WHERE ? IS NULL OR task = ?"
        return int(connection.execute(query, (task, task)).fetchone()[0])


def check_label_dictionary(store: Store, plan: FederationPlan) -> None:
    """Refuses a store whose full labels have no counterpart for a class that a task looks for.

    A dictionary must name every class; without one, a rare class may happen to be in no scan here,
    so only labels that hold no class at all are refused.

    Raises:
        LabelDictionaryError: with a table of what was found.
    """
    for task in plan.tasks:
        labelled = [scan for scan in list_scans(store, task.name) if scan.reference_key]
        found = {
            index
            for scan in labelled
            for index in plan_indexes(scan.label_names, scan.label_voxels, plan).values()
        }
        missing = set(plan.class_indexes(task)) - found
        named = any(scan.label_names for scan in labelled)
        if labelled and missing and (named or not found):
            names = [label.name for label in plan.labels if label.index in missing]
            raise LabelDictionaryError(
                f"task {task.name!r} looks for {names}, which no label of its scans is called; "
                f"found were:\n{_label_table(labelled, plan)}\n"
                "rename the labels in the plan or in the data set's dictionary"
            )


def _label_table(scans: list[CatalogScan], plan: FederationPlan) -> str:
    values = sorted({v for scan in scans for v in (*scan.label_names, *scan.label_voxels)})
    names = {value: name for scan in scans for value, name in scan.label_names.items()}
    of_plan = plan_indexes(names, dict.fromkeys(values, 0), plan)
    name_of = {label.index: label.name for label in plan.labels}
    lines = [f"  {'value':>5}  {'name':<28}{'scans':>6}{'voxels':>12}  plan"]
    for value in values:
        holding = [scan for scan in scans if scan.label_voxels.get(value)]
        voxels = sum(scan.label_voxels[value] for scan in holding)
        counterpart = name_of[of_plan[value]] if value in of_plan else "-"
        name = names.get(value, "(unnamed)")
        lines.append(f"  {value:>5}  {name:<28}{len(holding):>6}{voxels:>12}  {counterpart}")
    return "\n".join(lines)


def _from_row(row: sqlite3.Row) -> CatalogScan:
    geometry, original = json.loads(row["geometry"]), json.loads(row["original"])
    return CatalogScan(
        scan_id=row["scan_id"],
        case=row["case_name"],
        task=row["task"],
        modality=row["modality"],
        geometry=Geometry(*_shape_and_affine(geometry)),
        original=OriginalGeometry(*_shape_and_affine(original)),
        image_key=row["image_key"],
        reference_key=row["reference_key"],
        label_names={int(k): v for k, v in json.loads(row["label_names"]).items()},
        label_voxels={int(k): v for k, v in json.loads(row["label_voxels"]).items()},
        display_key=row["display_key"],
        display=Display(**json.loads(row["display"])),
    )


def _shape_and_affine(
    values: dict[str, list[int] | list[list[float]]],
) -> tuple[tuple[int, int, int], tuple[tuple[float, ...], ...]]:
    i, j, k = (int(n) for n in values["shape"])  # type: ignore[arg-type]
    return (i, j, k), tuple(tuple(row) for row in values["affine"])  # type: ignore[arg-type]
