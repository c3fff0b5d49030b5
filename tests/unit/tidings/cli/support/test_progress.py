"""How far a long command says that it is."""

import re

import pytest

from tidings.cli.support import progress
from tidings.cli.support.progress import ProgressBar


def test_a_plain_line_says_rate_lag_and_time_left() -> None:
    """Where there is no terminal a line says what is done, how fast, how much is missing, and how long that takes."""
    line = ProgressBar("replay", "events").line(3000, 12_000)
    assert re.fullmatch(
        r"replay: 3,000 of 12,000 events \(25%\), [\d,]+/s, 9,000 behind, \d+ s left", line
    )
    assert "time left unknown" in ProgressBar("replay", "events").line(0, 10)


def test_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first after some seconds, on standard error.

    None at all where a program reads the output.
    """
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    with (
        ProgressBar("replay", "events") as bar,
        ProgressBar("replay", "events", quiet=True) as quiet,
    ):
        bar.update(1, 2)
        quiet.update(1, 2)
    printed = capsys.readouterr()
    assert (printed.out, len(printed.err.splitlines())) == ("", 1)


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It shows the rate, the lag, and the time left."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with ProgressBar("replay", "events") as bar:
        bar.update(3000, 12_000)
    shown = capsys.readouterr().err
    assert "9,000 behind" in shown
    assert "events/s" in shown
