"""The words of the product: documents, docstrings, help texts, errors, log lines and the page's texts."""

import re
from pathlib import Path

import pytest

from tests.support import prose
from tests.support.root import ROOT

PAPERS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "clients").glob("*/README.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "deploy").rglob("*.md")),
]
PAGES = [
    path
    for folder in ("gateway/static", "clients/js/src", "clients/react/src")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".html", ".js", ".ts", ".tsx")
]
LONGEST = 30
"""Words of a sentence."""


def text_of(paper: Path) -> str:
    """A paper without code, tables, headings and addresses; a name in code counts as a word."""
    text = re.sub(r"^```.*?^```", "", paper.read_text(encoding="utf-8"), flags=re.M | re.S)
    text = re.sub(r"^(?:\||#|!\[).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\{\{.*?\}\}", "1", text)
    return re.sub(r"`[^`]*`", "Code", re.sub(r"\]\([^)]*\)", "]", text))


def long_sentences(paper: Path) -> list[str]:
    """The sentences of a paper that have more words than they need."""
    parts = re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", text_of(paper))
    sentences = (one for part in parts for one in re.split(r"(?<=[.!?])\s+(?=[A-Z*\[(])", part))
    return [one for one in sentences if prose.words(one) > LONGEST]


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: str(paper.relative_to(ROOT)))
def test_words_of_documents_are_plain(paper: Path) -> None:
    """No paper uses an odd word for a plain one."""
    text = re.sub(r"^```.*?^```", "", paper.read_text(encoding="utf-8"), flags=re.M | re.S)
    found = prose.odd_words(re.sub(r"^#.*$", "", text, flags=re.MULTILINE))
    assert found == {}


def test_sentences_of_documents_are_short() -> None:
    """No sentence of the documents has over 30 words."""
    assert [one for paper in PAPERS for one in long_sentences(paper)] == []


def test_what_the_code_says_is_plain() -> None:
    """No docstring, help text, error or log line uses an odd word, or has a sentence over 30 words."""
    passages = [one for module in prose.modules() for one in prose.passages(module)]
    assert len(passages) > 5_000
    odd = [(one.place, found) for one in passages if (found := prose.odd_words(one.text))]
    assert odd == []
    long = [
        f"{one.place}: {sentence}"
        for one in passages
        for sentence in prose.sentences(one.text)
        if prose.words(sentence) > LONGEST
    ]
    assert long == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_the_page_says_is_plain(page: Path) -> None:
    """Neither the page nor the clients use an odd word, in texts or comments."""
    assert prose.odd_words(page.read_text(encoding="utf-8").replace("`", "'")) == {}


def test_odd_words_and_long_sentences_are_seen() -> None:
    """A docstring, an f-string of an error and a page with an odd word are found; quoted code is not."""
    assert prose.odd_words("None where it is gone; it is made anew.") == {
        "None where": "if",
        "anew": "again",
    }
    assert prose.odd_words("`anew` is a name") == {}
    text = "word " * 31 + "ends. `a b c d`; short"
    assert [prose.words(one) > LONGEST for one in prose.sentences(text)] == [True, False, False]
