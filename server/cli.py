"""`oneslice coordinator ...`. Heavy libraries load inside the commands, so that help is quick."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from common.command_line import Format, run_commands

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print the result.")]


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


@app.command()
def status(run_folder: RunArgument, output: OutputFormat = Format.TEXT) -> None:
    """How far a federation is, and what each hospital did in the last round."""
    from common.errors import CheckpointError
    from server.checkpoints import load_state
    from server.run_folder import RunFolder

    folder = RunFolder(run_folder)
    plan = folder.read_plan()
    state = load_state(folder.checkpoints, plan)
    if state is None:
        raise CheckpointError(f"{run_folder}: no round is saved yet")
    last = state.history[-1]
    if output is Format.JSON:
        found = {"round": state.round, "rounds": plan.num_rounds, "last": last.model_dump()}
        print(json.dumps({**found, "finished": state.closing is not None}, indent=2))
        return
    stage = f"stage {plan.tasks[last.stage].name}"
    doing = "self-learning" if plan.is_self_learning(last.round) else stage
    print(f"{plan.federation}: round {state.round} of {plan.num_rounds}, {doing}")
    for note in last.notes:
        scores = "  ".join(
            f"{score.task} {score.mean_dice:.3f}"
            for score in note.scores
            if score.mean_dice is not None
        )
        print(f"  {note.hospital:<16}{note.outcome:<12} used {note.used:<4} {scores}")
    for one in last.dropped:
        print(f"  {one.hospital:<16}{one.kind:<12} {one.reason}")
