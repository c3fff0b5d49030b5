"""What every command shares: reading the settings, running the loop, and ending with one line and the right code."""

import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer

from tidings.settings import Settings

DONE = 0
FAILED = 1
WRONG_USE = 2

T = TypeVar("T")

Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Settings file; else tidings.toml in the working folder."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
LogUrl = Annotated[str | None, typer.Option("--log", metavar="URL", help="The log: sqlite:///..., kafka://host:9092.")]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="The store: sqlite:///..., memory://, ...")
]


class Failure(Exception):
    """The command did not work; the message is its one line."""

    def __init__(self, message: str, code: int = FAILED) -> None:
        super().__init__(message)
        self.code = code


def settings(config: Path | None = None, **flags: Any) -> Settings:
    """The settings in force for this command."""
    from tidings.setting_sources import load

    return load(flags, environ=os.environ, config=config)


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop where there is one."""
    return asyncio.Runner(loop_factory=loop_factory()).run(main)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop  # type: ignore[no-any-return,unused-ignore]


def say(line: str) -> None:
    """A line of output."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def fail(message: str, code: int = FAILED) -> NoReturn:
    """One line on standard error, and the end."""
    sys.stderr.write(f"tidings: {' '.join(message.split())}\n")
    raise SystemExit(code)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group of groups; of another error itself."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error
