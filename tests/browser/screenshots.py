"""Takes the pictures of the page that the papers show: `python -m tests.browser.screenshots`, about a minute.

They are of `tidings demo` with some predictions started and some records that cannot be applied.
"""

import asyncio
import shutil
import tempfile
from pathlib import Path

import httpx
from playwright.async_api import Page, async_playwright

from tests.support import system
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess, serving
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

FOLDER = ROOT / "docs" / "images"
WISHES = (
    ("a lighthouse on the edge of the fog", 4, "ada"),
    ("two herons and a bicycle, woodcut", 5, "grace"),
    ("the last tram of the night, in the rain", 4, "edsger"),
    ("an orchard on the far side of the moon", 6, "ada"),
    ("a library that grew out of a hill", 7, "barbara"),
    ("a kettle that dreams of the sea", 18, "grace"),
    ("three owls at a chess tournament", 23, "ada"),
    ("a map drawn by the wind", 30, "barbara"),
)
"""Prompt, seconds, owner."""
BAD = [
    *(
        (b"render-%d" % number, b'{"status": "finished", "seconds": %d.5}' % number)
        for number in range(11, 16)
    ),
    (b"thumb-7", b"<html><body>502 Bad Gateway</body></html>"),
    (b"render-3", b'{"status": "processing", "progress": "half"}'),
]
HEADERS = [("content-type", b"application/json"), ("x-service", b"render-farm-2")]


async def fill(service: TidingsProcess) -> None:
    """Start predictions, and append what cannot be applied."""
    async with httpx.AsyncClient(base_url=service.url, trust_env=False) as http:
        for prompt, seconds, owner in WISHES:
            payload = {"prompt": prompt, "duration": seconds}
            wish = {
                "provider": "replicate",
                "model": "tidings-demo/pictures",
                "owner": owner,
                "payload": payload,
            }
            (
                await http.post("/api/predictions", json={**wish, "prompt": prompt})
            ).raise_for_status()
            await asyncio.sleep(1.2)
    log = await open_log(f"sqlite:///{next(service.folder.rglob('log.db'))}")
    try:
        await log.append(EVENTS, [NewRecord(key, value, HEADERS) for key, value in BAD])
    finally:
        await log.close()


async def take(page: Page, name: str) -> None:
    await asyncio.sleep(0.6)  # for what moves to come to rest
    await page.screenshot(path=FOLDER / f"{name}.png")


async def main() -> None:
    system.require(system.CHROMIUM)
    found = next(path for command in system.CHROMIUM.commands if (path := shutil.which(command)))
    with tempfile.TemporaryDirectory() as folder:
        async with (
            serving(Path(folder), arguments=("demo",)) as service,
            async_playwright() as playwright,
        ):
            browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            page = await browser.new_page(viewport={"width": 1280, "height": 800})
            await page.goto(service.url)
            await fill(service)
            await asyncio.sleep(7)
            await take(page, "page")
            await page.emulate_media(color_scheme="dark")
            await page.locator(".card", has_text="three owls").locator("a").click()
            await take(page, "prediction")
            await page.keyboard.press("Escape")
            await page.emulate_media(color_scheme="light")
            await page.keyboard.press("d")
            await page.locator('[data-reason="unknown-status"] summary').first.click()
            await page.locator('[data-reason="unknown-status"] .letters summary').first.click()
            await take(page, "dead-letters")
            await page.keyboard.press("Escape")
            await page.set_viewport_size({"width": 390, "height": 800})
            await page.evaluate("document.activeElement.blur()")
            await take(page, "phone")
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
