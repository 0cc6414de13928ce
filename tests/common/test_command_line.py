"""Our own errors become one message and an exit code; any other error stays one."""

import pytest
import typer

from common.command_line import run_commands
from common.errors import (
    CheckpointError,
    LabelDictionaryError,
    OneSliceError,
    QuorumError,
    SettingsError,
    StoreError,
)


def _app_that_raises(error: Exception) -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def go() -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SettingsError("seed = -1"), 2),
        (LabelDictionaryError("label 3"), 2),
        (CheckpointError("another plan"), 2),
        (QuorumError("1 of 3 answered"), 1),
        (StoreError("cannot be read"), 1),
        (OneSliceError("something"), 1),
    ],
)
def test_our_errors_become_a_message_and_a_code(
    capsys: pytest.CaptureFixture[str], error: OneSliceError, code: int
) -> None:
    with pytest.raises(SystemExit) as stopped:
        run_commands(_app_that_raises(error), [], "oneslice test")
    assert stopped.value.code == code
    assert capsys.readouterr().err == f"error: {error}\n"


def test_what_an_error_quotes_does_not_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        run_commands(_app_that_raises(SettingsError("two\nlines \x1b[2J")), [], "oneslice test")
    assert capsys.readouterr().err == "error: two\nlines \\x1b[2J\n"


def test_an_error_of_the_program_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError, match="by hand"):
        run_commands(_app_that_raises(ZeroDivisionError("by hand")), [], "oneslice test")
