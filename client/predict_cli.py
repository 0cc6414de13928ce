"""`oneslice hospital predict`. Heavy libraries load inside the command, so that help is quick."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.cli_options import NodeFolder, OutputFormat
from common.command_line import STOPPED, Format

if TYPE_CHECKING:
    from client.prediction.model import Model
    from client.prediction.predict_scans import PredictionReport
    from common.plan import Task


class Network(StrEnum):
    """Which of a release's two networks predicts."""

    STUDENT = "student"
    SEGMENTER = "segmenter"


def add_predict(app: typer.Typer) -> None:
    """Puts the command among a hospital's others."""
    app.command()(predict)


def predict(
    scans: Annotated[Path, typer.Argument(help="A volume, a DICOM file or a folder of scans.")],
    out: Annotated[Path, typer.Option(help="A folder for the results, not among the scans.")],
    store: Annotated[
        Path | None, typer.Option("--store", help="The hospital's folder: the newest models here.")
    ] = None,
    release: Annotated[
        Path | None, typer.Option(help="A release's folder: its models instead.")
    ] = None,
    model: Annotated[
        Network, typer.Option(help="student: small and fast; segmenter: the larger one.")
    ] = Network.STUDENT,
    task: Annotated[
        str | None, typer.Option(help="What the scans are for, where nothing in them tells.")
    ] = None,
    node: NodeFolder = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
    output: OutputFormat = Format.TEXT,
) -> None:
    """Label scans with the federation's model: volumes, confidence, pictures, DICOM SEG.

    Run again, it goes on where it was stopped. Exit code 1: not one scan could be used.
    """
    from client.node import node_of
    from client.predicting_model import check_labels, find_release
    from client.prediction.model import load_model
    from client.prediction.predict_scans import predict_scans
    from client.prediction.results import PredictedBy, open_results
    from client.store.ingest import check_channels
    from client.store.loose_scans import find_scans

    found = find_release(store, release)
    if store is not None or node is not None:
        check_labels(node_of(store or Path(), node).path, found.record.plan)
    ready = load_model(found, model.value, device)
    told = _task_named(task, ready)
    dataset = find_scans(scans, found.record.plan.channels)
    check_channels(dataset, found.record.plan)
    with (
        open_results(out, scans, PredictedBy.of(ready, told)) as results,
        _bar(len(dataset.cases)) as on_case,
    ):
        report = predict_scans(ready, dataset, results, told, on_case)
    _print_report(ready, report, out, output)
    if not report.predicted and not report.done_before:
        raise typer.Exit(STOPPED)


def _task_named(name: str | None, model: "Model") -> "Task | None":
    from common.errors import SettingsError

    if name is None:
        return None
    for task in model.tasks:
        if task.name == name:
            return task
    known = ", ".join(task.name for task in model.tasks)
    raise SettingsError(f"the model has not learned a task {name!r}; its tasks are {known}")


@contextmanager
def _bar(number: int) -> Iterator[Callable[[str], None]]:
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("predict", total=number)
        yield lambda _: progress.advance(bar)


def _print_report(model: "Model", report: "PredictionReport", out: Path, output: Format) -> None:
    if output is Format.JSON:
        record = model.record
        by = {"model": model.role, "federation": record.federation, "round": record.round}
        facts = {**by, "models_sha256": record.models_sha256, "out": str(out), **asdict(report)}
        print(json.dumps(facts, indent=2))
        return
    print(f"{model.title} ({model.record.models_sha256[:16]})")
    print(
        f"{len(report.predicted)} predicted, {len(report.done_before)} done before, "
        f"{len(report.set_aside)} set aside; results in {out}"
    )
    for case, told in (*report.set_aside, *report.notes):
        print(f"  {case}: {told}")
