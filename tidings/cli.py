"""The command `tidings`: its subcommands, and how it ends.

Exit codes: 0 done; 1 it did not work, or a verification found differences; 2 wrong use. What went wrong is one line
on standard error.
"""

import sys
from collections.abc import Sequence

import typer

from tidings.commands import running
from tidings.commands.serve import serve
from tidings.commands.token import token
from tidings.settings import SettingsError

app = typer.Typer(
    name="tidings",
    help="The state of long-running AI predictions, pushed the moment it changes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve)
app.command()(token)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    try:
        result = app(arguments, prog_name="tidings", standalone_mode=False)
    except KeyboardInterrupt:
        sys.exit(running.FAILED)
    except Exception as error:
        _end(error)
    else:
        sys.exit(result if isinstance(result, int) else running.DONE)


def _end(error: Exception) -> None:
    """End with one line for what can be expected to go wrong; anything else is a defect and keeps its traceback."""
    if isinstance(error, typer.Abort):
        sys.exit(running.FAILED)
    message = getattr(error, "format_message", None)
    if callable(message):  # typer's errors of usage; its releases keep their classes in different places
        text = str(message())
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stdout.write(text + "\n")
            sys.exit(running.WRONG_USE)
        running.fail(text or type(error).__name__, running.WRONG_USE)
    for leaf in running.leaves(error):
        ending = _expected(leaf)
        if ending is not None:
            running.fail(*ending)
    raise error


def _expected(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code of an error that is no defect of ours; None: it is one."""
    if isinstance(error, running.Failure):
        return str(error), error.code
    if isinstance(error, SettingsError):
        return str(error), running.WRONG_USE
    from storage.errors import StorageError, StoreMisconfigured
    from streams.log import LogError, LogMisconfigured

    if isinstance(error, StoreMisconfigured | LogMisconfigured):
        return str(error), running.WRONG_USE
    if isinstance(error, StorageError | LogError):
        return str(error), running.FAILED
    if isinstance(error, OSError):
        return str(error), running.FAILED
    return None
