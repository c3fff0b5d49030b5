"""The code blocks of every document: where each stands, in which language, and what it says."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.support.root import ROOT

PRINTED = "benchmarks/RESULTS.md"
"""The benchmarks write it: all of its blocks are output."""
_BLOCK = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(?:^|\s+)# .*$", re.MULTILINE)
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)


class Block(Struct, frozen=True):
    """One block."""

    paper: str
    line: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.paper}:{self.line}"


def papers() -> list[Path]:
    """Every document, those of the packages and the examples included."""
    listed = subprocess.run(
        ("git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in listed.stdout.split()]


def blocks(language: str | None = None) -> Iterator[Block]:
    """The blocks of all documents, or those of a language."""
    for paper in papers():
        name = str(paper.relative_to(ROOT))
        text = paper.read_text(encoding="utf-8")
        for found in [] if name == PRINTED else _BLOCK.finditer(text):
            line = text.count("\n", 0, found.start()) + 1
            code = re.sub(rf"^{found[1]}", "", found[3], flags=re.MULTILINE)
            if language in (None, found[2]):
                yield Block(name, line, found[2], code)


def block(paper: str, language: str, having: str) -> Block:
    """The one block of a document in a language that has these words."""
    (found,) = [one for one in blocks(language) if one.paper == paper and having in one.code]
    return found


class Command(Struct, frozen=True):
    """One command of a shell block: its words, and what it is given in the environment."""

    words: tuple[str, ...]
    given: dict[str, str]


def commands(code: str) -> list[Command]:
    """The simple commands of a shell block, in their order; pipes, lists and groups are taken apart."""
    plain = _COMMENT.sub("", code.replace("\\\n", " "))
    lexer = shlex.shlex(plain, posix=True, punctuation_chars="&|;()>\n")
    lexer.whitespace = " \t\r"
    lexer.whitespace_split = True
    lexer.commenters = ""
    found: list[Command] = []
    words: list[str] = []
    inside = False  # of `$(...)`, whose value the shell makes
    for token in [*lexer, "\n"]:
        if words and words[-1].endswith("$") and token.startswith("("):
            inside = True
            words[-1] += "(...)"
        elif inside and not token.startswith(")"):
            continue
        elif set(token) <= set("&|;()>\n"):
            ended = token.removeprefix(")") if inside else token
            inside = False
            if ended and words:
                found.append(_command(words))
                words = []
            if ">" in token:
                words = [">"]
        else:
            words.append(token)
    return [one for one in found if one.words[:1] != (">",)]


def _command(words: list[str]) -> Command:
    given: dict[str, str] = {}
    rest = list(words[1:] if words[0] == "export" else words)
    while rest and (assigned := _ASSIGNED.fullmatch(rest[0])):
        given[assigned[1]] = assigned[2]
        rest.pop(0)
    return Command(tuple(rest), given)
