"""The progress of a long command: a bar in a terminal, a plain line now and then elsewhere.

On standard error.
"""

import sys
import time
from types import TracebackType
from typing import Any, Self

from tidings.cli.support import output

LINE_EVERY = 5.0
"""Seconds between plain lines."""


class ProgressBar:
    """Shows done, rate and time left. Use as a context manager.

    Args:
        title: What is under way.
        unit: What is counted.
        quiet: Show nothing.
    """

    def __init__(self, title: str, unit: str, *, quiet: bool = False) -> None:
        self._title = title
        self._unit = unit
        self._quiet = quiet
        self._start = time.monotonic()
        self._said = self._start
        self._rich: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not self._quiet and sys.stderr.isatty():
            self._rich, self._task = _terminal(self._title, self._unit)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._rich is not None:
            self._rich.stop()

    def update(self, done: int, total: int | None) -> None:
        """Show how much is done, of how much: None if nobody knows."""
        if self._rich is not None:
            elapsed = max(1e-6, time.monotonic() - self._start)
            rate = f"{done / elapsed:,.0f} {self._unit}/s"
            lag = "" if total is None else f"{max(0, total - done):,} behind"
            self._rich.update(self._task, completed=done, total=total, rate=rate, lag=lag)
        elif not self._quiet and time.monotonic() - self._said >= LINE_EVERY:
            self._said = time.monotonic()
            output.print_note(self.line(done, total))

    def line(self, done: int, total: int | None) -> str:
        """The plain line."""
        elapsed = max(1e-6, time.monotonic() - self._start)
        rate = done / elapsed
        if total is None:
            return f"{self._title}: {done:,} {self._unit}, {rate:,.0f}/s"
        left = (
            f"{(total - done) / rate:.0f} s left"
            if rate > 0 and total >= done
            else "time left unknown"
        )
        share = f"{100 * done / total:.0f}%" if total else "0%"
        lag = f"{max(0, total - done):,} behind"
        return (
            f"{self._title}: {done:,} of {total:,} {self._unit} ({share}), {rate:,.0f}/s, {lag}, "
            f"{left}"
        )

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._start


def _terminal(title: str, unit: str) -> tuple[Any, Any]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[lag]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    task = progress.add_task(title, total=None, rate=f"- {unit}/s", lag="")
    progress.start()
    return progress, task
