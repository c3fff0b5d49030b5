"""axe-core, which knows what keeps people out of a page; npm fetches it into `.cache/`.

https://github.com/dequelabs/axe-core. It is run within the page, and only in tests.
"""

import subprocess
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from tests.support import system
from tests.support.root import ROOT

VERSION = "4.14.1"
CACHE = ROOT / ".cache" / "axe-core"

_RUN = """async () => (await axe.run(document, { resultTypes: ["violations"] })).violations.map((found) =>
    `${found.id} (${found.impact}): ${found.help}: ${found.nodes.map((node) => node.html.slice(0, 120) + " " + node.failureSummary).join(" | ")}`)"""


class AxeFailed(Exception):
    """It could not be fetched."""


def source() -> str:
    """Its program, fetched where it is missing."""
    system.require(system.NODE)
    path = CACHE / VERSION / "node_modules" / "axe-core" / "axe.min.js"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        # Fetched beside and renamed: two at once leave no half a folder.
        with tempfile.TemporaryDirectory(dir=CACHE) as work:
            fetched = Path(work, "fetched")
            fetched.mkdir()
            command = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(fetched))
            done = subprocess.run(
                (*command, f"axe-core@{VERSION}"), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise AxeFailed(f"npm could not fetch axe-core {VERSION}:\n{done.stderr}")
            if not (CACHE / VERSION).exists():
                fetched.rename(CACHE / VERSION)
    return path.read_text(encoding="utf-8")


async def findings(page: Page) -> list[str]:
    """What it finds wrong with the page as it is shown now."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(source())
    found: list[Any] = await page.evaluate(_RUN)
    return [str(one) for one in found]
