"""All that can be wrong with a hospital's installation, looked at in one go."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from client.check import Check
from client.coordinator_checks import check_node
from client.machine_checks import (
    check_cores,
    check_disk,
    check_gpu,
    check_memory,
    check_networks,
    check_packages,
    check_python,
)
from client.node import Node
from client.separation import check_separation
from client.store.status import label_map_bytes_to_come
from client.store.store import Store, open_store
from client.store_checks import (
    Progress,
    check_arrays,
    check_audit,
    check_catalog,
    check_clock,
    check_leftovers,
    check_policy,
    check_withdrawals,
)
from common.errors import StoreError
from common.plan import FederationPlan


def examine(
    folder: Path, plan: FederationPlan | None, *, quick: bool, clean: bool, progress: Progress
) -> Iterator[Check]:
    """One check after the other, as it is done.

    Args:
        folder: the hospital's.
        plan: if given, its networks are tried and its rounds' memory is estimated.
        quick: do not read the arrays' content.
        clean: remove what nothing points to, and what is damaged and can be made again.
        progress: told about the arrays, which take the longest.
    """
    yield check_python()
    yield from check_packages()
    yield check_cores()
    yield check_gpu()
    try:
        store = open_store(folder)
    except StoreError as error:
        yield Check("store", str(folder), "it cannot be opened", str(error))
        return
    yield Check("store", f"{store.hospital}, in {folder}")
    try:
        yield from _examine_store(store, plan, quick=quick, clean=clean, progress=progress)
    except StoreError as error:
        yield Check("store", str(folder), "a check could not be done", str(error))
    if plan is not None:
        yield check_networks(plan)


def examine_node(folder: Path, node: Node) -> Iterator[Check]:
    """The hospital's part in a federation; nothing if it has none.

    Args:
        folder: the hospital's.
        node: where its part in a federation lies.
    """
    if node.path.is_dir():
        yield from check_node(node, datetime.now(UTC))
        yield check_separation(node, folder)


def _examine_store(
    store: Store, plan: FederationPlan | None, *, quick: bool, clean: bool, progress: Progress
) -> Iterator[Check]:
    yield check_memory(_needed_gb(store, plan))
    yield check_disk(store.folder, label_map_bytes_to_come(store))
    yield check_catalog(store)
    yield check_withdrawals(store)
    yield check_arrays(store, quick=quick, clean=clean, progress=progress)
    yield check_leftovers(store, clean=clean)
    yield check_audit(store)
    yield check_clock(store)
    yield check_policy(store)


def _needed_gb(store: Store, plan: FederationPlan | None) -> float | None:
    """The most that any round of the plan needs."""
    if plan is None:
        return None
    from client.round_memory import estimate_memory_gb  # noqa: PLC0415  (loads MONAI)
    from common.updates import RoundRequest  # noqa: PLC0415  (only with a plan)

    # Self-learning comes first, the last stage sees all tasks.
    rounds = {plan.begins_after + 1, plan.num_rounds}
    return max(
        estimate_memory_gb(
            store, RoundRequest(action="train", plan=plan, round=number), list(plan.tasks)
        )
        for number in rounds
    )
