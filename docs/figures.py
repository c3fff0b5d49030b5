"""Puts measured figures into the pages: `{{ results: SECTION > ROW > COLUMN }}` is that cell of `benchmarks/RESULTS.md`.

The row is named by its first cell, the column by its heading; the first of several counts. With a number of decimals
behind it (`| 0`) the figure is rounded. With a factor (`* 0.05 | 0`) it is multiplied first, and loses its unit.
"""

import re
from pathlib import Path

RESULTS = Path(__file__).parent.parent / "benchmarks" / "RESULTS.md"
_QUOTE = re.compile(
    r"\{\{ results: ([^{}]+?) > ([^{}]+?) > ([^{}|]+?)(?: \* ([\d.]+))?(?: \| (\d))? \}\}"
)


class NoFigure(LookupError):
    """A page quotes a figure that the results do not have."""


def on_page_markdown(markdown: str, **_: object) -> str:
    """The hook of MkDocs."""
    return filled(markdown, RESULTS.read_text(encoding="utf-8")) if "{{" in markdown else markdown


def filled(markdown: str, results: str) -> str:
    """A page with the figures that it quotes.

    Raises:
        NoFigure: One of them is not there.
    """

    def figure(match: re.Match[str]) -> str:
        section, row, column, factor, decimals = match.groups()
        found = cell(results, section, row, column)
        if decimals is None:
            return found
        number, unit = re.fullmatch(r"([\d,.]+)(.*)", found).groups()  # type: ignore[union-attr]
        figure = float(number.replace(",", "")) * float(factor or 1)
        return f"{figure:,.{decimals}f}{'' if factor else unit}"

    return _QUOTE.sub(figure, markdown)


def cell(results: str, section: str, row: str, column: str) -> str:
    """The figure in a row and column of a section's tables."""
    part = re.search(rf"^## {re.escape(section)}$(.*?)(?=^## |\Z)", results, re.M | re.S)
    headings: list[str] = []
    for line in part[1].splitlines() if part else ():
        cells = _cells(line)
        if column in cells:
            headings = cells
        elif headings and cells and cells[0] == row:
            # Tables in columns of spaces may have no heading over their rows' names.
            return cells[headings.index(column) - len(headings)]
    raise NoFigure(f"benchmarks/RESULTS.md has no {section} > {row} > {column}")


def _cells(line: str) -> list[str]:
    if line.startswith("|"):
        return [one.strip() for one in line.strip("|").split("|")]
    return re.split(r"\s{2,}", line.strip())
