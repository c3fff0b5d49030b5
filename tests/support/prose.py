"""The prose of the code: what its docstrings, help texts, errors and log lines say."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from tests.support.root import ROOT

ROOMS = ("tidings", "gateway", "streams", "storage", "clients", "examples")
_SECTIONS = re.compile(r"(?:Args|Returns|Raises|Yields|Attributes|Example|Examples):")
_BEGINS = re.compile(r"(?:[-*] |\d+\. |\w+(?:, \w+)*: )")
_NO_PROSE = re.compile(r"[|\[├└│]|\S+ += ")
"""How lines of tables, drawings and examples begin."""
_CODE = re.compile(
    r"\b(?:SELECT|INSERT|UPDATE|DELETE|CREATE|ALTER|VALUES|WHERE|redis\.call|import|await)\b"
    r"|</|=>|[{};]\n"
)

PLAIN = {
    "for ever": "forever",
    r"[Mm]end(?:s|ed|ing)?": "fix, repair",
    "anew": "again",
    "in the place of": "instead of",
    r"[Ll]ikewise": "in the same way",
    "passed over": "ignored",
    "hereby": "with this",
    "thereby": "so",
    "thereof|therein|thereupon|whence|whilst|amongst|lest|henceforth|hitherto": "a word of today",
    "utilize": "use",
    "in order to": "to",
    "prior to": "before",
    r"[Ww]here (?:there (?:is|are)|nothing|nobody|no|none|only|another)": "if",
    r"[Ww]here (?:it is (?:missing|not)|not all|anything is|that is no)": "if",
    r"[Ee]nds with \d where": "ends with ... if",
    r"(?:None|True|False|empty|absent|[Pp]roblem|[Rr]aises `?\w+`?|returns|0) where": "if",
    r"(?:[Pp]roblem|raises|a) \(?\d{3}\)? where": "if",
}
"""Odd words, and the plain ones instead."""


class Passage(Struct, frozen=True):
    """A piece of prose, and where it is."""

    place: str
    text: str


def modules() -> Iterator[Path]:
    """Each module of the product."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            if path.resolve() == path and "node_modules" not in path.parts:
                yield path


def passages(path: Path) -> Iterator[Passage]:
    """Every paragraph of the docstrings, and of each string that is said to people, in a module."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in parts:
            continue
        text = _text(node)
        if text is not None and (id(node) in docstrings or is_prose(text)):
            line = getattr(node, "lineno", 0)
            for paragraph in paragraphs(text):
                yield Passage(f"{path.relative_to(ROOT)}:{line}", paragraph)


def _text(node: ast.AST) -> str | None:
    """A string; one that is put together has a name in the place of each value."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(
            str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values
        )
    return None


def is_prose(text: str) -> bool:
    """Whether a string is said to people: it has several words, and is no SQL, script or markup."""
    return len(re.findall(r"[A-Za-z][a-z']+ ", text)) >= 3 and not _CODE.search(text)


def paragraphs(text: str) -> Iterator[str]:
    """The paragraphs of a text; each point of a list and each entry of a section is one of its own."""
    held: list[str] = []
    code = False
    for raw in [*text.strip().splitlines(), ""]:
        line = raw.strip()
        if line.startswith("```"):
            code = not code
            continue
        apart = not line or _NO_PROSE.match(line) or _SECTIONS.fullmatch(line)
        if apart or _BEGINS.match(line):
            if held:
                yield " ".join(held)
            held = []
        if not (apart or code):
            held.append(line)


def odd_words(text: str) -> dict[str, str]:
    """The odd words of a text, with the plain ones; what is quoted as code is left alone."""
    plain = re.sub(r"`[^`]*`|https?://\S+", "", text)
    return {
        match[0]: better
        for odd, better in PLAIN.items()
        for match in re.finditer(rf"\b(?:{odd})\b", plain)
    }


def sentences(text: str) -> list[str]:
    """The sentences of a paragraph; what a semicolon parts are two."""
    plain = re.sub(r"`[^`]*`|https?://\S+", "Code", text)
    return re.split(r"(?<=[.!?])\s+(?=[A-Z*\[(\"'])|; ", plain)


def words(sentence: str) -> int:
    """How many words it has; a name in code is one."""
    return len(re.findall(r"[A-Za-z][\w'-]*", sentence))
