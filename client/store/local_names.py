"""What this hospital's own files call the plan's labels: the mapping, without any scan.

A name may say more than it should: whoever paints can call a thing as he likes. So a name that
holds who the scan is of is never kept, and the value stands in its place.
"""

import json
from collections.abc import Iterable, Sequence

from client.store.scans import plan_indexes
from client.store.store import Store
from client.store.telling import telling_of, tells
from common.plan import FederationPlan, Task
from common.printable import printable
from common.updates import LONGEST_LOCAL_NAME, MOST_LOCAL_NAMES


def save_local_names(store: Store, scan_id: str, called: Iterable[tuple[int, int, str]]) -> None:
    """Keeps what the file that a scan's slices were imported from calls each label.

    Args:
        store: the hospital's.
        scan_id: of the scan; what an earlier import called its labels is forgotten.
        called: label index, value in the file, and name there, empty if it has none.
    """
    with store.read() as connection:
        telling = telling_of(connection, scan_id)
    rows = {(scan_id, index, _harmless(name, value, telling)) for index, value, name in called}
    with store.connect() as connection:
        connection.execute("DELETE FROM local_names WHERE scan_id = ?", (scan_id,))
        connection.executemany("INSERT INTO local_names VALUES (?, ?, ?)", sorted(rows))


def local_names(
    store: Store, plan: FederationPlan, tasks: Sequence[Task]
) -> dict[str, tuple[str, ...]]:
    """The plan's labels by name, each with what files of these tasks call it here, sorted.

    Counted are full labels that came with scans and files that slices were imported from; `value 3`
    is a thing without a name. A label that was painted on the page alone has no other name.
    """
    found: dict[int, set[str]] = {}
    for task in tasks:
        classes = plan.class_indexes(task)
        for index, name in [*_in_dictionaries(store, plan, task), *_imported(store, task)]:
            if index in classes:
                found.setdefault(index, set()).add(name)
    name_of = {label.index: label.name for label in plan.labels}
    return {
        name_of[index]: tuple(sorted(names)[:MOST_LOCAL_NAMES])
        for index, names in sorted(found.items())
    }


def _in_dictionaries(store: Store, plan: FederationPlan, task: Task) -> Iterable[tuple[int, str]]:
    query = (
        "SELECT DISTINCT label_names, CASE label_names WHEN '{}' THEN label_voxels ELSE '{}' END "
        "AS label_voxels FROM scans WHERE task = ? AND reference_key IS NOT NULL"
    )
    with store.read() as connection:
        rows = connection.execute(query, (task.name,)).fetchall()
    for row in rows:
        names = {int(value): name for value, name in json.loads(row["label_names"]).items()}
        voxels = {int(value): number for value, number in json.loads(row["label_voxels"]).items()}
        for value, index in plan_indexes(names, voxels, plan).items():
            yield index, _harmless(names.get(value, ""), value, ())


def _imported(store: Store, task: Task) -> list[tuple[int, str]]:
    query = "SELECT DISTINCT label, name FROM local_names JOIN scans USING (scan_id) WHERE task = ?"
    with store.read() as connection:
        return [(row["label"], row["name"]) for row in connection.execute(query, (task.name,))]


def _harmless(name: str, value: int, telling: Sequence[str]) -> str:
    fit = printable(name.strip())[:LONGEST_LOCAL_NAME]
    return f"value {value}" if tells(name, telling) or not fit else fit
