"""What every request needs: the hospital's store, the plan, and who asks for which scan."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request
from starlette.exceptions import HTTPException

from client.annotation.page.access import Access
from client.annotation.page.previews import Previews
from client.store.scans import CatalogScan, lookup_scan
from client.store.store import Store
from common.plan import FederationPlan, Task
from common.scans import SCAN_ID


@dataclass(frozen=True)
class Desk:
    """One server's belongings.

    Attributes:
        store: the hospital's.
        plan: which tasks are painted, with which labels.
        access: who may open the page.
        previews: spreads what is submitted; started and stopped with the app.
        task: the only one that is shown; None: all of the plan.
    """

    store: Store
    plan: FederationPlan
    access: Access
    previews: Previews
    task: str | None = None

    @property
    def tasks(self) -> list[Task]:
        """The tasks that are shown."""
        return [one for one in self.plan.tasks if self.task in (None, one.name)]


class Refusal(HTTPException):
    """An answer that is an error, in a sentence; `fields` go beside the sentence."""

    def __init__(self, status: int, sentence: str, **fields: object) -> None:
        """Status 4xx, and what was expected, what came, what to do."""
        super().__init__(status, sentence)
        self.fields = fields


def _desk_of(request: Request) -> Desk:
    return cast(Desk, request.app.state.desk)


def _annotator_of(request: Request) -> str:
    return cast(str, request.state.annotator)


TheDesk = Annotated[Desk, Depends(_desk_of)]
Annotator = Annotated[str, Depends(_annotator_of)]


def _known_scan(scan_id: str, desk: TheDesk) -> CatalogScan:
    scan = lookup_scan(desk.store, scan_id) if SCAN_ID.fullmatch(scan_id) else None
    if scan is None or scan.task not in [task.name for task in desk.tasks]:
        raise Refusal(404, "expected the id of a registered scan, as the worklist gives it")
    return scan


KnownScan = Annotated[CatalogScan, Depends(_known_scan)]


def task_of(desk: Desk, scan: CatalogScan) -> Task:
    """The task whose classes are painted on a scan."""
    return desk.plan.task_named(scan.task)


def check_index(scan: CatalogScan, axis: int, index: int) -> None:
    """Refuses a slice that the scan does not have."""
    depth = scan.geometry.shape[axis]
    if not 0 <= index < depth:
        raise Refusal(404, f"expected a slice from 0 to {depth - 1} along axis {axis}, got {index}")
