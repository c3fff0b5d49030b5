"""The conformance suite of Durable Streams, which nobody here wrote, against a real service."""

import asyncio
import re
from pathlib import Path

from tests.support.durable_streams import run_suite
from tests.support.root import ROOT
from tests.support.system import NODE, require
from tests.support.tidings_process import serving

PAGE = ROOT / "docs" / "reference" / "durable-streams.md"
ROW = re.compile(r"^\| (?P<group>[^|]+) \| (?P<title>[^|]+) \|$", re.MULTILINE)


def out_of_scope() -> set[tuple[str, str]]:
    """The cases that the page names as left out."""
    listed = PAGE.read_text(encoding="utf-8").partition("## Cases that are left out")[2]
    rows = {(row["group"], row["title"]) for row in ROW.finditer(listed)}
    return {row for row in rows if row != ("group", "case") and not set(row[0]) <= {"-"}}


async def test_the_suite_passes(tmp_path: Path) -> None:
    """Every case passes but those that the page names as left out, and each of those fails: the list is no longer than it must be."""
    require(NODE)
    settings = {"TIDINGS_ALLOWED_ORIGINS": "https://example.com"}
    async with serving(tmp_path, settings) as service:
        cases = await asyncio.to_thread(run_suite, service.url)
    assert len(cases) > 300
    left_out = out_of_scope()
    failed = [case for case in cases if case["status"] != "passed"]
    unexpected = [case for case in failed if plain(case) not in left_out]
    assert unexpected == []
    assert left_out - {plain(case) for case in failed} == set()


def plain(case: dict[str, str]) -> tuple[str, str]:
    """Group and title, as they stand in a table."""
    return case["group"].replace("|", "/"), case["title"].replace("|", "/")
