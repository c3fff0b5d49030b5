"""Takes the 20 views of the page that the documents show: `python -m tests.browser.screenshots`, about a minute.

They are of a service with predictions of every kind, dead letters, and what runs; the pictures are
WebP, small enough to be kept beside the text.
"""

import asyncio
import base64
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from playwright.async_api import BrowserContext, Page, ViewportSize, async_playwright

from tests.browser import samples
from tests.browser.reports import SETTINGS
from tests.support import system
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess, serving
from tidings.streams.log.protocol import NewRecord

FOLDER = ROOT / "docs" / "images" / "page"
QUALITY = 72
DESKTOP = ViewportSize(width=1280, height=800)
PHONE = ViewportSize(width=390, height=800)
BAD = [
    *(
        (b"render-%d" % number, b'{"status": "finished", "seconds": %d.5}' % number)
        for number in range(11, 16)
    ),
    (b"thumb-7", b"<html><body>502 Bad Gateway</body></html>"),
    (b"render-3", b'{"status": "processing", "progress": "half"}'),
]
HEADERS = [("content-type", b"application/json"), ("x-service", b"render-farm-2")]

Act = Callable[[Page], Awaitable[object]]


async def nothing(page: Page) -> None:
    """The view as it opens."""


def pressing(*keys: str) -> Act:
    """Press keys."""

    async def act(page: Page) -> None:
        for key in keys:
            await page.keyboard.press(key)

    return act


async def searching(page: Page) -> None:
    """Search for words."""
    await page.locator("#filters").get_by_label("Id or words").fill("lighthouse")
    await page.wait_for_url("**/?text=lighthouse*")


async def opening_a_letter(page: Page) -> None:
    """Open the dead letters, and one of them."""
    await page.keyboard.press("d")
    group = page.locator('[data-reason="unknown-status"]')
    await group.locator("summary").first.click()
    await group.locator(".letters summary").first.click()


async def asking(page: Page) -> None:
    """Ask whether a prediction is to be ended."""
    await page.get_by_role("button", name="Mark canceled").click()


async def raw(page: Page) -> None:
    """Open the record as it came."""
    await page.get_by_text("Raw record").click()
    await page.get_by_text("Raw record").scroll_into_view_if_needed()


VIEWS: tuple[tuple[str, str, Act], ...] = (
    ("all", "", nothing),
    ("search", "", searching),
    ("nothing-found", "?owner=zoe", nothing),
    ("picture", "#picture", nothing),
    ("several", "#several", nothing),
    ("tall", "#tall", nothing),
    ("video", "#video", nothing),
    ("audio", "#audio", nothing),
    ("model", "#model", nothing),
    ("long-text", "#long-text", nothing),
    ("json", "#json", raw),
    ("long-prompt", "#long-prompt", nothing),
    ("not-archived", "#not-archived", nothing),
    ("failed", "#failed", nothing),
    ("running", "#running", nothing),
    ("question", "#running", asking),
    ("dead-letters", "", opening_a_letter),
)
"""Name, address, and what is done there; beside these an empty service, a lost one, and the form."""
DARK = {"several", "long-text", "running", "dead-letters"}
ON_A_PHONE = {"search", "audio", "failed", "not-archived"}


AT_REST = """() =>
  document.querySelector("[aria-busy=true]:not(pre)") === null
  && document.fonts.status === "loaded"
  && [...document.images].every((one) => one.complete || one.getBoundingClientRect().top > innerHeight)
  && [...document.querySelectorAll("video, audio")].every((one) => one.readyState > 0)
  && document.getAnimations().every((one) =>
    one.playState !== "running" || one.effect.getComputedTiming().endTime === Infinity)
"""
"""Nothing is being fetched, and nothing moves that ever comes to rest."""


async def take(page: Page, name: str) -> None:
    """Keep a picture of the page once it is at rest."""
    await page.wait_for_function(AT_REST)
    session = await page.context.new_cdp_session(page)
    shot = await session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    (FOLDER / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))
    await session.detach()


async def opened(context: BrowserContext, url: str, name: str) -> Page:
    """A page in the colours and the size of this view."""
    page = await context.new_page()
    await page.set_viewport_size(PHONE if name in ON_A_PHONE else DESKTOP)
    await page.emulate_media(color_scheme="dark" if name in DARK else "light")
    await page.goto(url)
    await page.wait_for_selector('#connection[data-state="open"]')
    return page


async def demo(context: BrowserContext, folder: Path) -> None:
    """The form, in the demonstration."""
    async with serving(folder, arguments=("demo",)) as service:
        page = await opened(context, service.url, "form")
        await page.wait_for_selector(".card img")
        await page.keyboard.press("n")
        await take(page, "form")
        await page.close()


async def empty_and_lost(context: BrowserContext, service: TidingsProcess) -> None:
    """A service without predictions, and on a phone one that has gone."""
    page = await opened(context, service.url, "empty")
    await take(page, "empty")
    await samples.append(service.folder, samples.events(int(time.time() * 1000) - 60_000))
    await page.set_viewport_size(PHONE)
    await page.goto(f"{service.url}/#running")
    await page.wait_for_selector("#detail .line .status")
    await service.kill()
    await page.wait_for_selector("#offline:not([hidden])")
    await take(page, "disconnected")
    await page.close()


async def main() -> None:
    system.require(system.CHROMIUM)
    found = next(path for command in system.CHROMIUM.commands if (path := shutil.which(command)))
    FOLDER.mkdir(parents=True, exist_ok=True)
    settings = {**SETTINGS, "TIDINGS_TTL": "0", "TIDINGS_ARCHIVE": "off"}
    with tempfile.TemporaryDirectory() as folder:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
            context = await browser.new_context()
            await samples.serve_media(context)
            for name in ("kinds", "empty", "demo"):
                (Path(folder) / name).mkdir()
            async with serving(Path(folder) / "kinds", settings) as service:
                bad = [NewRecord(key, value, HEADERS) for key, value in BAD]
                events = samples.events(int(time.time() * 1000) - 60_000)
                await samples.append(service.folder, [*events, *bad])
                for name, address, act in VIEWS:
                    page = await opened(context, f"{service.url}/{address}", name)
                    await act(page)
                    await take(page, name)
                    await page.close()
            async with serving(Path(folder) / "empty", settings) as service:
                await empty_and_lost(context, service)
            await demo(context, Path(folder) / "demo")
            await browser.close()


if __name__ == "__main__":
    asyncio.run(main())
