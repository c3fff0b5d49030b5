"""What the page on replaying tells operators to type, for the tests that follow it."""

import re
import shlex

from tests.support.root import ROOT

PAGE = ROOT / "docs" / "howto" / "replaying.md"


def _section(heading: str) -> str:
    text = PAGE.read_text(encoding="utf-8")
    (found,) = re.findall(
        rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL
    )
    return str(found)


def blocks(heading: str, language: str) -> list[str]:
    """The blocks of a language under a heading, without what they are indented by."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```", _section(heading), re.MULTILINE | re.DOTALL
    )
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


def commands(heading: str) -> list[list[str]]:
    """The arguments of every `tidings` command under a heading, in order."""
    lines = [line for block in blocks(heading, "sh") for line in block.splitlines()]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("tidings ")]
