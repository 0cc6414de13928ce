"""`oneslice hospital worklist` and `annotate`: what there is to paint, and where it is painted."""

import gc
import json
import os
import re
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_options import OutputFormat, Plan, StoreFolder
from common.command_line import Format
from common.errors import SettingsError
from common.plan import NAME_PATTERN, FederationPlan
from common.scans import AXIS_OF_PLANE
from common.settings_file import read_settings

if TYPE_CHECKING:
    from client.annotation.page.previews import Labeller
    from client.annotation.worklist import Worklist

Task = Annotated[str | None, typer.Option(help="Only scans of this task of the plan.")]
# One volume of 512 x 512 x 300 voxels to look at, labels and confidence, for each annotator.
MOST_BYTES_PER_ANNOTATOR = 160_000_000
EVERYTHING = 10_000_000


def add_page(app: typer.Typer) -> None:
    """Adds both commands to the hospital's."""
    app.command()(worklist)
    app.command()(annotate)


def worklist(
    store: StoreFolder, plan: Plan, task: Task = None, output: OutputFormat = Format.TEXT
) -> None:
    """Scans that want a slice, are being painted, or wait for a look; which slice, and why."""
    from client.annotation.worklist import Wanted, read_worklist
    from client.store.store import open_store

    agreed = read_settings(FederationPlan, plan)
    found = read_worklist(open_store(store), agreed, Wanted(task, limit=EVERYTHING))
    if output is Format.JSON:
        print(json.dumps(asdict(found), indent=2))
        return
    _print_worklist(found)


def annotate(
    store: StoreFolder,
    plan: Plan,
    task: Task = None,
    annotator: Annotated[
        list[str] | None, typer.Option(help="Who paints, a pseudonym; once for each person.")
    ] = None,
    port: Annotated[int, typer.Option(help="On 127.0.0.1; 0: any that is free.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Serve the page on which slices are painted, on this machine alone, until stopped."""
    from client.annotation.page.previews import Previews
    from client.annotation.page.serve import serve
    from client.store.store import open_store

    names = list(dict.fromkeys(annotator or ["clinician"]))
    odd = [name for name in names if re.fullmatch(NAME_PATTERN, name) is None]
    if odd:
        raise SettingsError(
            f"annotators {odd}: expected up to 48 letters, digits, - and _ each, the first a "
            "letter or digit"
        )
    agreed, opened = read_settings(FederationPlan, plan), open_store(store)
    if task is not None and task not in [one.name for one in agreed.tasks]:
        known = ", ".join(one.name for one in agreed.tasks)
        raise SettingsError(f"the plan has no task {task!r}; its tasks are {known}")

    def load() -> "Labeller":
        # In the page's background: the page is there before torch is.
        from client.annotate import HospitalLabeller
        from client.learning.device import check_device, choose_device

        labeller = HospitalLabeller(opened, agreed, choose_device(check_device(device)))
        # What the libraries brought stays for good. Looking through all of it for garbage, again
        # and again, would hold up a stroke for a third of a second.
        gc.freeze()
        return labeller

    previews = Previews(load, most_bytes=len(names) * MOST_BYTES_PER_ANNOTATOR)
    serve(opened, agreed, previews, names, port=port, task=task)
    if previews.is_running:
        # Half imported, torch would keep the command waiting for seconds, or end it with a crash.
        os._exit(0)


def _print_worklist(found: "Worklist") -> None:
    counts = ", ".join(f"{number} {state}" for state, number in found.counts.items())
    print(f"{counts}; {found.slices_painted} slices in {found.minutes_painted} min")
    planes = list(AXIS_OF_PLANE)
    width = max((len(row.scan_id) for row in found.rows), default=0)
    for row in found.rows:
        where = f"{planes[row.axis]} {'-' if row.index is None else row.index}"
        holder = f"  ({row.claimed_by} has it open)" if row.claimed_by else ""
        print(
            f"{row.scan_id:<{width}}  {row.task:<16} {row.state:<9} {where:<13} {row.why}{holder}"
        )
