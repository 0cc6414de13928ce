"""`oneslice hospital ...`. Heavy libraries load inside the commands, so that help is quick."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.command_line import Format, run_commands

if TYPE_CHECKING:
    from client.store.ingest import IngestReport

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

StoreFolder = Annotated[Path, typer.Option("--store", help="The hospital's folder.")]
Plan = Annotated[Path, typer.Option(help="The federation's plan, a TOML file.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print the result.")]


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
    data: Annotated[Path, typer.Argument(help="A folder: MSD, nnU-Net v2 or plain.")],
    store: StoreFolder,
    plan: Plan,
    task: Annotated[str, typer.Option(help="The plan's task that these scans are for.")],
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
        )
    _print_ingest(report, output)


@app.command()
def status(store: StoreFolder, output: OutputFormat = Format.TEXT) -> None:
    """Scans by task, slices painted, what was set aside and why."""
    from client.store.status import read_status
    from client.store.store import open_store

    found = read_status(open_store(store))
    if output is Format.JSON:
        print(json.dumps(found, indent=2))
        return
    for name, value in found.items():
        print(f"{name:<12} {value}")


@app.command()
def worker(
    store: StoreFolder,
    socket: Annotated[Path, typer.Option(help="Where to listen: a path on this machine.")],
    secret_file: Annotated[Path, typer.Option(help="Made on first use; the SuperNode reads it.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Answer the federation's rounds until stopped; the SuperNode's ClientApp asks here."""
    from client.learning.device import check_device
    from client.local_round import Hospital
    from client.store.store import open_store
    from client.worker import make_secret, serve

    hospital = Hospital(open_store(store), check_device(device))
    print(f"{hospital.store.hospital}: answering on {socket}", flush=True)
    serve(hospital, socket, make_secret(secret_file))


@app.command()
def audit(store: StoreFolder, output: OutputFormat = Format.TEXT) -> None:
    """What was done and sent; says whether the log was changed."""
    from client.store.audit import read_audit, verify_audit
    from client.store.store import open_store

    opened = open_store(store)
    num_rows = verify_audit(opened)
    rows = read_audit(opened)
    if output is Format.JSON:
        print(json.dumps([vars(row) for row in rows], indent=2))
        return
    for row in rows:
        print(f"{row.time}  {row.event:<9} {row.details[:120]}")
    print(f"{num_rows} rows, none changed")


def _print_ingest(report: "IngestReport", output: Format) -> None:
    counts = {"added": report.added, "already_known": report.already_known}
    bad = [{"case": case, "reason": reason} for case, reason in report.quarantined]
    if output is Format.JSON:
        labels = [vars(label) for label in report.labels]
        print(json.dumps({**counts, "quarantined": bad, "labels": labels}, indent=2))
        return
    print(f"{report.added} added, {report.already_known} known already, {len(bad)} set aside")
    for case, reason in report.quarantined:
        print(f"  {case}: {reason}")
    if report.labels:
        print(f"{'value':>6}  {'label':<28}{'scans':>6}{'voxels':>12}")
    for label in report.labels:
        name = label.name or "(unnamed)"
        print(f"{label.value:>6}  {name:<28}{label.scans:>6}{label.voxels:>12}")
