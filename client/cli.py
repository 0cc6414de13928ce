"""`oneslice hospital ...`. Heavy libraries load inside the commands, so that help is quick."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_options import OutputFormat, Plan, StoreFolder
from client.desk_cli import add_desk
from client.join_cli import add_join
from client.node_cli import add_node
from client.page_cli import add_page
from client.predict_cli import add_predict
from common.command_line import Format, run_commands

if TYPE_CHECKING:
    from client.store.ingest import IngestReport

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
add_desk(app)
add_page(app)
add_node(app)
add_join(app)
add_predict(app)


def run(arguments: Sequence[str], prog_name: str) -> None:
    """The role's entry point."""
    run_commands(app, arguments, prog_name)


@app.callback()
def main() -> None:
    """Register scans, paint slices, take part in federations."""


@app.command()
def init(
    store: StoreFolder,
    name: Annotated[str, typer.Option(help="The name the coordinator knows this hospital by.")],
) -> None:
    """Make a hospital's store, or find it made."""
    from client.store.store import create_store

    create_store(store, name)
    print(f"{name}: store in {store}")


@app.command()
def ingest(
    data: Annotated[Path, typer.Argument(help="A folder: MSD, nnU-Net v2, plain or DICOM.")],
    store: StoreFolder,
    plan: Plan,
    task: Annotated[str, typer.Option(help="The plan's task that these scans are for.")],
    again_allowed: Annotated[
        list[str] | None, typer.Option(help="A case that was withdrawn and may come back.")
    ] = None,
    output: OutputFormat = Format.TEXT,
) -> None:
    """Register a folder's scans for a task; what cannot be used is set aside with a reason."""
    from rich.progress import Progress

    from client.store.ingest import check_channels, ingest_cases
    from client.store.layouts import find_cases
    from client.store.store import open_store
    from common.errors import SettingsError
    from common.plan import FederationPlan
    from common.settings_file import read_settings

    agreed = read_settings(FederationPlan, plan)
    if task not in [one.name for one in agreed.tasks]:
        names = ", ".join(one.name for one in agreed.tasks)
        raise SettingsError(f"the plan has no task {task!r}; its tasks are {names}")
    opened, dataset = open_store(store), find_cases(data)
    check_channels(dataset, agreed)
    with Progress(transient=True) as progress:
        bar = progress.add_task("ingest", total=len(dataset.cases))
        report = ingest_cases(
            opened,
            dataset,
            dataset.cases,
            task=agreed.task_named(task),
            on_case=lambda _: progress.advance(bar),
            again_allowed=again_allowed or (),
        )
    _print_ingest(report, output)


@app.command("import-mask")
def import_painted(
    file: Annotated[Path, typer.Argument(help="NIfTI, NRRD, MHA, .seg.nrrd or DICOM SEG.")],
    store: StoreFolder,
    plan: Plan,
    scan: Annotated[str, typer.Option(help="The scan's id, or the case that it came as.")],
    index: Annotated[int | None, typer.Option(help="Which of several painted slices.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All painted slices.")] = False,
    told: Annotated[
        list[str] | None,
        typer.Option("--map", help="3=1 or Tumour=Lesion: what is which label; 0 leaves it out."),
    ] = None,
    annotator: Annotated[str, typer.Option(help="Who painted it, a pseudonym.")] = "imported",
) -> None:
    """Take a slice painted in 3D Slicer or ITK-SNAP as that scan's annotation."""
    from client.annotation.import_masks import Wanted, import_mask
    from client.annotation.match_segments import read_map
    from client.store.store import open_store
    from common.errors import SettingsError
    from common.plan import FederationPlan
    from common.settings_file import read_settings

    if every and index is not None:
        raise SettingsError("--index takes one slice and --all takes all: give one of the two")
    agreed = read_settings(FederationPlan, plan)
    wanted = Wanted(annotator, read_map(told or [], agreed), index, every)
    name_of = {label.index: label.name for label in agreed.labels}
    for one in import_mask(open_store(store), agreed, file, scan, wanted):
        shown = ", ".join(f"{name_of[index]} {number}" for index, number in one.pixels.items())
        print(f"{one.ref.scan_id} slice {one.ref.index}, version {one.version}: pixels {shown}")


def _print_ingest(report: "IngestReport", output: Format) -> None:
    counts = {
        "added": report.added,
        "already_known": report.already_known,
        "serve_others": report.serve_others,
    }
    bad = [{"case": case, "reason": reason} for case, reason in report.quarantined]
    if output is Format.JSON:
        labels = [vars(label) for label in report.labels]
        notes = [{"case": case, "note": note} for case, note in report.notes]
        parts = {**counts, "quarantined": bad, "labels": labels, "notes": notes}
        print(json.dumps(parts, indent=2))
        return
    print(f"{report.added} added, {report.already_known} known already, {len(bad)} set aside")
    if report.serve_others:
        print(f"{report.serve_others} of those added serve another task, too")
    for case, told in (*report.quarantined, *report.notes):
        print(f"  {case}: {told}")
    if report.labels:
        print(f"{'value':>6}  {'label':<28}{'scans':>6}{'voxels':>12}")
    for label in report.labels:
        name = label.name or "(unnamed)"
        print(f"{label.value:>6}  {name:<28}{label.scans:>6}{label.voxels:>12}")
