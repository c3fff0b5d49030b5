"""What a command prints or writes out.

The one place that writes to a terminal, so that no control character reaches it.
"""

import contextlib
import os
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, NoReturn

from tidings.observability.control_characters import escape_controls

if TYPE_CHECKING:
    from tidings.storage.redaction import Redactor

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What a spreadsheet takes for the beginning of a formula, in full width too."""

FAILED = 1
WRONG_USE = 2


def print_line(line: str) -> None:
    """Print a line of output, at once."""
    write_line(sys.stdout, line)
    sys.stdout.flush()


def print_text(text: str) -> None:
    """Print a text of several lines."""
    for line in text.split("\n"):
        write_line(sys.stdout, line)
    sys.stdout.flush()


def print_table(title: str, values: Mapping[str, Any]) -> None:
    """Print a title, and below it a name and its value on each line."""
    print_line(title)
    width = max(len(name) for name in values)
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int | float) else str(value)
        print_line(f"  {name:<{width}}  {shown}")


def print_note(line: str) -> None:
    """Print a line on standard error, beside the output."""
    write_line(sys.stderr, line)
    sys.stderr.flush()


def print_question(text: str) -> None:
    """Print on standard error what is answered on the same line."""
    sys.stderr.write(f"{cell(text)} ")
    sys.stderr.flush()


def write_line(out: IO[str], line: str) -> None:
    """Write one line; control characters in it are shown as escapes."""
    out.write(escape_controls(line) + "\n")


def cell(value: Any) -> Any:
    """A cell that a spreadsheet takes for text, whatever it begins with (OWASP, CSV Injection)."""
    if not isinstance(value, str):
        return value
    shown = escape_controls(value)
    return f"'{shown}" if shown.startswith(FORMULA_STARTS) else shown


_secrets: set[str] = set()


def hide(secrets: Iterable[str]) -> None:
    """Keep the secrets of the settings in force out of error lines, tracebacks and the log."""
    _secrets.update(secrets)


def redactor() -> "Redactor":
    """What error lines, tracebacks and the log of this command pass."""
    from tidings.storage.redaction import Redactor

    return Redactor(_secrets)


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print one line on standard error, without credentials, and end the process."""
    print_note(f"tidings: {redactor().text(' '.join(message.split()))}")
    raise SystemExit(code)


class FileThere(Exception):
    """The file to be written is there already; the message says so."""


@contextlib.contextmanager
def opened(file: str) -> Iterator[IO[str]]:
    """A new file that its owner alone can read, or standard output for `-`.

    What is exported holds people's prompts. A file that did not become whole is removed again.

    Raises:
        FileThere: There is a file of that name.
        OSError: It cannot be written.
    """
    if file == "-":
        yield sys.stdout
        return
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise FileThere(f"{file} is there already; name a new file") from None
    try:
        with open(descriptor, "w", encoding="utf-8", newline="") as out:  # noqa: PTH123 - a descriptor
            yield out
    except BaseException:
        Path(file).unlink(missing_ok=True)
        raise


def guard_terminal() -> None:
    """Send tracebacks through this module, and escape what the terminal cannot encode."""
    for stream in (sys.stdout, sys.stderr):
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    sys.excepthook = _print_traceback


def _print_traceback(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    text = redactor().text
    for line in "".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"):
        print_note(text(line))
