"""The command `tidings`: its subcommands, and how it ends.

Exit codes: 0 done; 1 it did not work, or a verification found differences; 2 wrong use; 3 a
verification or repair met something that cannot be judged here. What went wrong is one line on
standard error.
"""

import os
import sys
from argparse import Action, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence
from typing import Any

from tidings.cli import (
    audit,
    backup,
    dead_letters,
    demo,
    doctor,
    erase,
    reconcile,
    replay,
    report,
    serve,
    specifications,
    token,
    watch,
    worker,
)
from tidings.cli.records import export, listing, ordering, usage
from tidings.cli.support import command, output
from tidings.config.settings import SettingsError
from tidings.storage.extras import missing
from tidings.storage.private_files import OTHERS

COMMANDS = (
    serve,
    demo,
    replay,
    reconcile,
    report,
    dead_letters,
    audit,
    ordering,
    watch,
    listing,
    export,
    usage,
    backup,
    erase,
    doctor,
    token,
    worker,
    specifications,
)
"""The modules of the commands, in the order in which the help lists them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process with its exit code.

    Args:
        arguments: Without the program's name; None: those of the process.

    Raises:
        SystemExit: Always, unless a defect comes through with its traceback.
    """
    output.guard_terminal()
    os.umask(OTHERS)  # whatever a command makes is its owner's alone, what drivers write included
    parsed = _parser().parse_args(arguments)
    try:
        code = parsed.run(parsed)
    except KeyboardInterrupt:
        sys.exit(command.FAILED)
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone; nothing is left to say
        sys.exit(command.FAILED)
    except Exception as error:
        for leaf in _leaves(error):
            ending = _expected(leaf)
            if ending is not None:
                output.fail(*ending)
        raise
    sys.exit(code or command.DONE)


def _parser() -> command.Parser:
    parser = command.Parser(
        prog="tidings",
        description="The state of long-running AI predictions, pushed the moment it changes.",
        epilog="example:\n  tidings serve --port 8080\n\n"
        "tidings COMMAND --help says more about a command.",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version)
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=command.Parser
    )
    for module in COMMANDS:
        module.register(commands)
    return parser


class _Version(Action):
    """The flag `--version`; what it prints is looked up when it is asked for."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the version, and end")

    def __call__(self, *_: Any) -> None:
        """Print it."""
        from importlib.metadata import version

        output.print_line(f"tidings {version('tidings')}")
        raise SystemExit(command.DONE)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups; of another error itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _leaves(part)
    else:
        yield error


def _expected(error: BaseException) -> tuple[str, int] | None:
    """The line and the exit code of what can be expected to go wrong; None: it is a defect."""
    if isinstance(error, command.Failure):
        return str(error), error.code
    if isinstance(error, SettingsError):
        return str(error), command.WRONG_USE
    if isinstance(error, ImportError) and (line := missing("this command", error)) is not None:
        return line, command.FAILED
    from tidings.storage.errors import StorageError, StoreMisconfigured
    from tidings.streams.log.protocol import LogError, LogMisconfigured
    from tidings.streams.replay.rebuild import StoreInUse

    if isinstance(error, StoreMisconfigured | LogMisconfigured):
        return str(error), command.WRONG_USE
    if isinstance(error, StorageError | LogError | StoreInUse | OSError):
        return str(error), command.FAILED
    return None
