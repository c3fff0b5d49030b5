"""What every command shares: flags, settings, the event loop, exit codes."""

import asyncio
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from tidings.cli.support import output
from tidings.config.settings import Settings

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    Commands = _SubParsersAction["Parser"]
else:
    Commands = Any

DONE = 0
UNDECIDED = 3
"""A comparison met something that cannot be judged here, and changed nothing because of it."""
FAILED = output.FAILED
WRONG_USE = output.WRONG_USE

T = TypeVar("T")


class Failure(Exception):
    """The command did not work; the message is its one line."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


class Parser(ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """End with code 2."""
        output.fail(f"{message}; {self.prog} --help shows what there is", WRONG_USE)


def parser(
    commands: Commands, name: str, run: Callable[[Namespace], int | None], about: str, example: str
) -> Parser:
    """A command's parser. The first line of `about` stands in the list of commands."""
    added = _add(commands, name, about, example)
    added.set_defaults(run=run)
    return added


def group(commands: Commands, name: str, about: str, example: str) -> Commands:
    """A command that consists of several: what their parsers are added to."""
    return _add(commands, name, about, example).add_subparsers(
        title="actions", metavar="ACTION", required=True, parser_class=Parser
    )


def _add(commands: Commands, name: str, about: str, example: str) -> Parser:
    return commands.add_parser(
        name,
        help=about.partition("\n")[0],
        description=about,
        epilog=f"example:\n  {example}",
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def add_config(to: ArgumentParser) -> None:
    """The flag `--config`."""
    to.add_argument(
        "--config",
        metavar="FILE",
        type=Path,
        help="settings; else tidings.toml in the working folder",
    )


def add_json(to: ArgumentParser) -> None:
    """The flag `--json`."""
    to.add_argument("--json", dest="as_json", action="store_true", help="print JSON, for programs")


def add_places(to: ArgumentParser) -> None:
    """The flags `--log` and `--store`."""
    to.add_argument(
        "--log", metavar="URL", help="the log: sqlite:///data/log.db, kafka://host:9092"
    )
    to.add_argument("--store", metavar="URL", help="the store: sqlite:///data/store.db, memory://")


def settings(arguments: Namespace, *names: str) -> Settings:
    """The settings in force, with those of the command's flags that are settings."""
    from tidings.config.loader import load_settings

    flags = {name: getattr(arguments, name) for name in names}
    found = load_settings(flags, environ=os.environ, config=arguments.config)
    output.hide(found.secrets())
    return found


def refuse_memory(settings: Settings) -> None:
    """Raise `Failure` if log or store lie in the memory of the service: no command sees them."""
    split = settings.split_arm
    arm = split[0] if split is not None else ""
    for name, url in (("LOG", settings.log), ("STORE", settings.store), ("STORE_SPLIT", arm)):
        if url.startswith("memory://"):
            raise Failure(f"TIDINGS_{name}: memory:// is seen by the service alone", WRONG_USE)


def parse_time(flag: str, text: str | None) -> int | None:
    """Milliseconds since the epoch, from ISO 8601 (without a zone: UTC) or as they are."""
    if text is None:
        return None
    if text.isascii() and text.isdecimal():
        return int(text)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise Failure(
            f"{flag}: {text!r} is no time; say 2026-01-31T12:00Z, or milliseconds since the epoch",
            WRONG_USE,
        ) from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp() * 1000)


def run_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop if there is one.

    What is logged goes to standard error, never among the output. The process is ours, so threads that write to SQLite
    may ask for the interpreter's lock more often: without that a replay waited 5 ms for it after each statement.
    """
    from tidings.storage.sqlite.interpreter import switch_interval

    _log_quietly()
    switch_interval.allowed = True
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(main)


def _log_quietly() -> None:
    import logging

    import structlog

    from tidings.observability import logging as service_logging

    if not structlog.is_configured():
        service_logging.configure(level=logging.WARNING, redactor=output.redactor())


def import_plain_structlog() -> None:
    """Import structlog without rich, which it would import for coloured tracebacks.

    That is 5 MB and a tenth of a service's start, and those who read its lines are mostly programs.
    """
    if "structlog" not in sys.modules and "rich" not in sys.modules:
        sys.modules["rich"] = None  # type: ignore[assignment]  # as the import system says "not there"
        try:
            import structlog  # noqa: F401 - for those who import it after us
        finally:
            del sys.modules["rich"]


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop  # type: ignore[no-any-return,unused-ignore]
