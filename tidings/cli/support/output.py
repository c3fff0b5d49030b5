"""What a command prints: lines and tables on standard output, its failure on standard error."""

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

FAILED = 1


def print_line(line: str) -> None:
    """Print a line of output, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def print_table(title: str, values: Mapping[str, Any]) -> None:
    """Print a title, and below it a name and its value on each line."""
    print_line(title)
    width = max(len(name) for name in values)
    for name, value in values.items():
        shown = f"{value:,}" if isinstance(value, int | float) else str(value)
        print_line(f"  {name:<{width}}  {shown}")


def fail(message: str, code: int = FAILED) -> NoReturn:
    """Print one line on standard error and end the process with the exit code."""
    sys.stderr.write(f"tidings: {' '.join(message.split())}\n")
    raise SystemExit(code)
