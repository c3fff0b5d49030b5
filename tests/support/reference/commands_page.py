"""The page about the commands, out of their parsers."""

from argparse import SUPPRESS, Action, ArgumentParser, _HelpAction, _SubParsersAction
from collections.abc import Iterator

from tests.support.reference.schema_words import cell
from tests.support.root import ROOT
from tidings.cli.main import _parser

PAGE = ROOT / "docs" / "reference" / "commands.md"
HEAD = """# Commands

Every command with its flags, as `tidings COMMAND --help` prints them. A command ends with 0 if it did what it was asked, with 1 if it could not, and with 2 if it was called wrongly. `replay --verify` ends with 3 if it met something that it cannot judge."""


def commands() -> Iterator[tuple[str, ArgumentParser]]:
    """Each command with its parser; of a command that consists of several, each of these."""
    yield from _commands("tidings", _parser())


def _commands(name: str, parser: ArgumentParser) -> Iterator[tuple[str, ArgumentParser]]:
    parts = [one for one in parser._actions if isinstance(one, _SubParsersAction)]
    if not parts:
        yield name, parser
    for part in parts:
        for each, found in part.choices.items():
            yield from _commands(f"{name} {each}", found)


def flags(parser: ArgumentParser) -> Iterator[tuple[str, Action]]:
    """The flags and arguments of a command, spelled as they are given."""
    for action in parser._actions:
        if isinstance(action, _HelpAction) or action.help == SUPPRESS:
            continue
        value = "" if action.nargs == 0 else _value(action)
        if action.option_strings:
            yield " ".join(part for part in (action.option_strings[-1], value) if part), action
        else:
            yield value, action


def _value(action: Action) -> str:
    if action.metavar:
        return action.metavar if isinstance(action.metavar, str) else " ".join(action.metavar)
    return "{" + ",".join(map(str, action.choices)) + "}" if action.choices else action.dest.upper()


def lines() -> Iterator[str]:
    """The page."""
    yield HEAD
    for name, parser in commands():
        yield from ("", f"## {name}", "", *(parser.description or "").strip().splitlines(), "")
        if parser.epilog:
            yield from ("```sh", parser.epilog.removeprefix("example:\n  "), "```", "")
        if rows := list(flags(parser)):
            yield from ("| flag | |", "|---|---|")
            for flag, action in rows:
                yield f"| `{cell(flag)}` | {cell((action.help or '').replace('%%', '%'))} |"
