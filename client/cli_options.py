"""Options that several of a hospital's commands share."""

from pathlib import Path
from typing import Annotated

import typer

from common.command_line import Format

StoreFolder = Annotated[Path, typer.Option("--store", help="The hospital's folder.")]
Plan = Annotated[Path, typer.Option(help="The federation's plan, a TOML file.")]
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print the result.")]
NodeFolder = Annotated[
    Path | None,
    typer.Option("--node", help="The federation's folder; STORE/federation if not given."),
]
