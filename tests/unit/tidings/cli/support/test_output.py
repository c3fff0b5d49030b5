"""What a command prints: no secret of the settings in an error line or a traceback."""

import subprocess
import sys

import pytest

from tests.support.root import ROOT

PROGRAM = """
from tidings.cli.support import output
output.guard_terminal()
output.hide(["plain-word-of-the-settings"])
{end}
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("output.fail('nobody takes plain-word-of-the-settings here')", 1),
        ("raise RuntimeError('a library quotes plain-word-of-the-settings')", 1),
    ],
)
def test_no_secret_in_the_last_words(end: str, code: int) -> None:
    """A secret that looks like any word is struck out by its value, of a defect's traceback too."""
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(end=end)], capture_output=True, text=True, cwd=ROOT
    )
    assert ended.returncode == code
    assert "***" in ended.stderr
    assert "plain-word-of-the-settings" not in ended.stderr
