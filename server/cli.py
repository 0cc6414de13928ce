"""`oneslice coordinator ...`. Heavy libraries load inside the commands, so that help is quick."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.command_line import run_commands
from server.consortium_cli import add_consortium
from server.federation_cli import add_federation

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
add_consortium(app)
add_federation(app)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]


def run(arguments: Sequence[str], prog_name: str) -> None:
    """The role's entry point."""
    run_commands(app, arguments, prog_name)


@app.callback()
def main() -> None:
    """See and report on federations."""


@app.command()
def report(run_folder: RunArgument) -> None:
    """Write a federation's report from its checkpoints; a simulation has written a fuller one."""
    from common.errors import CheckpointError
    from server.checkpoints import load_state
    from server.report import federation_report, write_report
    from server.run_folder import RunFolder

    folder = RunFolder(run_folder)
    plan = folder.read_plan()
    if folder.report_json.exists():
        print(f"report: {folder.report_html}")
        return
    state = load_state(folder.checkpoints, plan)
    if state is None:
        raise CheckpointError(f"{run_folder}: no round is saved yet")
    write_report(folder, federation_report(plan, state), plan, state, [])
    print(f"report: {folder.report_html}")
