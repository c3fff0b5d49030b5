"""What the doctor says on each page of docs/howto/sign-in: `python -m tests.support.reference.sign_in_pages` writes it."""

import asyncio
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from msgspec import Struct

from tests.support.gateway import issuers
from tests.support.root import ROOT
from tidings.cli.support import token_check
from tidings.config.loader import load_settings
from tidings.config.settings import Settings

FOLDER = ROOT / "docs" / "howto" / "sign-in"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
_TIMES = ("iat", "exp", "nbf", "auth_time")


class Page(Struct, frozen=True):
    """The parts of a page that are run."""

    settings: Settings
    claims: dict[str, Any]
    says: str


def block(text: str, kind: str) -> str:
    """The first block of this kind."""
    found = re.search(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    assert found is not None, kind
    return found[1]


def read(name: str) -> Page:
    """A page, with its token's times moved to now."""
    text = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    environ = {
        variable: value.strip("'")
        for variable, value in re.findall(r"^export (\w+)=(.*)$", block(text, "sh"), re.MULTILINE)
    }
    claims = json.loads(block(text, "json"))
    moved = time.time() - claims["iat"]
    claims |= {name: claims[name] + moved for name in _TIMES if name in claims}
    return Page(load_settings(environ=environ), claims, block(text, "text"))


async def said(page: Page) -> str:
    """What the doctor says of the page's token, signed as its issuer would, with keys of ours."""
    token = issuers.issued(page.claims, "ec" if "supabase" in page.claims["iss"] else "rsa")
    lines = await token_check.explained(page.settings, token, issuers.fetch, now=page.claims["iat"])
    width = max(len(line.part) for line in lines)
    return "".join(f"{line.state:<7}  {line.part:<{width}}  {line.says}\n" for line in lines)


def write(path: Path) -> None:
    """Write what is said into a page."""
    text = path.read_text(encoding="utf-8")
    says = asyncio.run(said(read(path.stem)))
    text = re.sub(r"```text\n.*?```", lambda _: f"```text\n{says}```", text, flags=re.DOTALL)
    path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{path} is written\n")


if __name__ == "__main__":
    for name in PAGES:
        write(FOLDER / f"{name}.md")
