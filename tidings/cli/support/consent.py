"""Asking before something is done that cannot be taken back."""

import sys
from argparse import ArgumentParser, Namespace

from tidings.cli.support import command, output


def add_yes(to: ArgumentParser) -> None:
    """The flag `--yes`."""
    to.add_argument("--yes", action="store_true", help="do it without asking")


def require_consent(arguments: Namespace, what: str, *, scripted: bool = False) -> None:
    """Say what would be done, and ask.

    Args:
        arguments: With `--yes` nobody is asked.
        what: What would be done, as a sentence without its full stop.
        scripted: Without a terminal it is done: the command's own flags say clearly enough what is
            wanted.

    Raises:
        Failure: It is not wanted, or there is nobody to ask.
    """
    if getattr(arguments, "yes", True):  # a program that calls a command's function is not asked
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if scripted:
            return
        raise command.Failure(
            f"this would {what}; nobody can be asked here: add --yes to do it", command.WRONG_USE
        )
    output.print_note(f"This would {what}.")
    output.print_question("Do it? [y/N]")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise command.Failure("nothing was done")
