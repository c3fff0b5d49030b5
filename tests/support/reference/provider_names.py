"""The table of providers in the guide, as their manifests have it.

`python -m tests.support.reference.provider_names` writes it into the page.
"""

import sys

from tests.support.root import ROOT
from tidings.streams.providers.registry import built_in, manifest

PAGE = ROOT / "docs" / "howto" / "providers.md"
HEAD = "| provider | configured by | proof |\n|---|---|---|\n"


def table() -> str:
    """A row for each provider of the catalog; the one that settings describe comes last."""
    rows = [(name, manifest(name)) for name in built_in()]
    rows.sort(key=lambda row: not row[1].translates_unconfigured)
    return HEAD + "".join(
        f"| `{name}` | {found.configured_by} | {found.proof} |\n" for name, found in rows
    )


def page(text: str) -> str:
    """The page's text with this table in it."""
    start = text.index(HEAD)
    end = text.index("\n\n", start) + 1
    return text[:start] + table() + text[end:]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{PAGE} is written\n")
