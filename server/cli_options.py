"""Options that several of a coordinator's commands share."""

from pathlib import Path
from typing import Annotated

import typer

from common.command_line import Format

ConsortiumFolder = Annotated[
    Path, typer.Option("--consortium", help="The coordinator's folder.", show_default=True)
]
DEFAULT_CONSORTIUM = Path("consortium")
OutputFormat = Annotated[Format, typer.Option("--format", help="How to print the result.")]
