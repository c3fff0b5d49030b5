"""The code of the guide to the browser client runs."""

import re

import pytest
from playwright.async_api import Page, expect

from tests.browser.reports import report
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

GUIDE = ROOT / "docs" / "reference" / "browser.md"


def blocks(language: str) -> list[str]:
    """The guide's code in a language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )


async def test_the_guide(page: Page, service: TidingsProcess) -> None:
    """The page of the guide shows a prediction's status; its other code prints what it says."""
    (example,) = blocks("html")
    await report(service, "p1", "processing", owner="ada")
    await page.goto(f"{service.url}/healthz")
    await page.set_content(example)
    await expect(page.locator("#state")).to_have_text("processing")
    await report(service, "p1", "failed", error="no paint")
    await expect(page.locator("#state")).to_have_text("failed")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    watching = blocks("js")[0].replace('{ owner: "ada" }', '{ predictions: ["p1"] }')
    load = 'const { Tidings } = await import("/static/tidings.js"); const tidings = new Tidings();'
    await page.evaluate(f"async () => {{ {load}\n{watching} }}")
    assert said == ["failed no paint", "p1 failed"]
    await page.evaluate(f"async () => {{ {load}\n{blocks('js')[1]} }}")


async def test_the_example_page(page: Page, service: TidingsProcess) -> None:
    """The page among the examples shows a prediction's status and its picture."""
    await report(service, "example-1", "processing")
    await page.goto(f"{service.url}/healthz")
    example = (ROOT / "examples" / "page.html").read_text(encoding="utf-8")
    await page.set_content(example.replace('"p1"', '"example-1"'))
    await expect(page.locator("#status")).to_have_text("processing")
    picture = f"{service.url}/static/icon.svg"
    await report(service, "example-1", "succeeded", imageUrl=picture)
    await expect(page.locator("#picture")).to_have_attribute("src", picture)
