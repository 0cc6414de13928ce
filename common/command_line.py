"""What all roles' commands have in common: exit codes, and errors without a traceback.

Exit codes: 0 done; 1 stopped for a reason that the message names; 2 wrong usage, settings or input.
"""

import errno
import sys
from collections.abc import Sequence
from enum import StrEnum

import typer

from common.errors import CheckpointError, LabelDictionaryError, OneSliceError, SettingsError
from common.printable import printable

STOPPED, WRONG_INPUT = 1, 2


class Format(StrEnum):
    """How a command prints its result."""

    TEXT = "text"
    JSON = "json"


def run_commands(app: typer.Typer, arguments: Sequence[str], prog_name: str) -> None:
    """Runs a role's command line; our own errors become one message and an exit code."""
    try:
        app(list(arguments), prog_name=prog_name)
    except OneSliceError as error:
        # Errors quote what came from outside.
        lines = [printable(line) for line in str(error).split("\n")]
        print("error: " + "\n".join(lines), file=sys.stderr)
        wrong_input = (SettingsError, LabelDictionaryError, CheckpointError)
        sys.exit(WRONG_INPUT if isinstance(error, wrong_input) else STOPPED)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            "error: the disk is full; what was saved before is whole: free some space and run the "
            "same command again",
            file=sys.stderr,
        )
        sys.exit(STOPPED)
