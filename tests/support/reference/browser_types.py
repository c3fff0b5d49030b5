"""The record's fields in the browser client's types: `python -m tests.support.reference.browser_types` writes them."""

import re

from tests.support.root import ROOT
from tidings.streams.rules.fields import FIELDS

PAGE = ROOT / "gateway" / "static" / "tidings.d.ts"

_fields = re.compile(
    r"(?<=  deleted\?: undefined;\n)(.*?)(?=  assetsError\?: string;\n)", re.DOTALL
)


def lines() -> str:
    """The members of `Prediction` that events report."""
    found = []
    for field in FIELDS:
        if field.about:
            found.append(f"  /** {field.about} */")
        found.append(f"  {field.wire}?: {field.typescript};")
    return "\n".join(found) + "\n"


def written() -> str:
    """The file with the members as they are now."""
    text, count = _fields.subn(lambda _: lines(), PAGE.read_text(encoding="utf-8"))
    assert count == 1, f"{PAGE}: the members of Prediction are not where they were"
    return text


if __name__ == "__main__":
    PAGE.write_text(written(), encoding="utf-8")
