"""A browser, a service, and pages that fail their test when the browser has anything to complain of."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    async_playwright,
    expect,
)

from tests.browser.reports import PICTURE, SETTINGS
from tests.support import system
from tests.support.tidings_process import TidingsProcess, serving

expect.set_options(timeout=20_000)

WATCHDOG = """
window.violations = [];
addEventListener("securitypolicyviolation", (event) => violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def chromium() -> AsyncIterator[Browser]:
    """The system's Chromium, started once per run."""
    system.require(system.CHROMIUM)
    found = next(path for command in system.CHROMIUM.commands if (path := shutil.which(command)))
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def service(
    tmp_path_factory: pytest.TempPathFactory, chromium: Browser
) -> AsyncIterator[TidingsProcess]:
    """A running service, one for all tests that do it no harm: each uses predictions and owners of its own."""
    async with serving(tmp_path_factory.mktemp("browser"), SETTINGS) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def own_service(tmp_path: Path, chromium: Browser) -> AsyncIterator[TidingsProcess]:
    """A running service of the test's own."""
    async with serving(tmp_path, SETTINGS) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def context(chromium: Browser) -> AsyncIterator[BrowserContext]:
    """A visitor of the test's own."""
    context = await chromium.new_context(viewport={"width": 1280, "height": 900})
    await context.add_init_script(WATCHDOG)
    await context.route(
        "https://pictures.example/**",
        lambda route: route.fulfill(body=PICTURE, content_type="image/png"),
    )
    yield context
    await context.close()


@pytest_asyncio.fixture(loop_scope="session")
async def page(context: BrowserContext, request: pytest.FixtureRequest) -> AsyncIterator[Page]:
    """A tab. Errors in the console and violations of the page's policy fail the test; `outage` expects lost requests."""
    page = await context.new_page()
    complaints: list[str] = []

    def hear(message: ConsoleMessage) -> None:
        lost = "net::ERR_" in message.text or "WebSocket connection to" in message.text
        if message.type == "error" and not (lost and request.node.get_closest_marker("outage")):
            complaints.append(message.text)

    page.on("console", hear)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    complaints += await page.evaluate("window.violations ?? []")
    assert not complaints
