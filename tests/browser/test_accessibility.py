"""The page for those who do not see it, or use no mouse: axe-core over every view, focus, and motion."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, expect

from tests.browser import samples
from tests.browser.reports import KEY, SETTINGS
from tests.browser.test_page import visit
from tests.support.axe import findings
from tests.support.tidings_process import TidingsProcess, serving
from tidings.gateway.openapi import openapi
from tidings.streams.log.protocol import NewRecord

pytestmark = pytest.mark.asyncio(loop_scope="session")

BAD = [NewRecord(b"bad-1", b'{"status": "finished"}'), NewRecord(b"bad-2", b"not json")]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gallery(
    tmp_path_factory: pytest.TempPathFactory, chromium: Browser
) -> AsyncIterator[TidingsProcess]:
    """A service with a prediction of every kind, and two dead letters."""
    settings = {**SETTINGS, "TIDINGS_TTL": "0", "TIDINGS_ARCHIVE": "off"}
    async with serving(tmp_path_factory.mktemp("kinds"), settings) as service:
        events = samples.events(int(time.time() * 1000) - 60_000)
        await samples.append(service.folder, [*events, *BAD])
        yield service


async def show(page: Page, service: TidingsProcess, where: str = "") -> None:
    await samples.serve_media(page.context)
    await visit(page, service, where)


async def all_predictions(page: Page, service: TidingsProcess) -> None:
    await show(page, service)
    await expect(page.locator(".card")).to_have_count(len(samples.SAMPLES | samples.OTHERS))


async def nothing_found(page: Page, service: TidingsProcess) -> None:
    await show(page, service, "?owner=zoe")
    await expect(page.locator("#empty")).to_be_visible()


def one(prediction_id: str) -> Callable[[Page, TidingsProcess], Awaitable[None]]:
    async def view(page: Page, service: TidingsProcess) -> None:
        await show(page, service, f"#{prediction_id}")
        await expect(page.locator("#detail .line .status")).to_be_visible()

    return view


async def raw_record(page: Page, service: TidingsProcess) -> None:
    await one("json")(page, service)
    await page.get_by_text("Raw record").click()
    await expect(page.locator(".detail .raw").last).to_contain_text("transitions")


async def question(page: Page, service: TidingsProcess) -> None:
    await one("running")(page, service)
    await page.get_by_role("button", name="Mark canceled").click()
    await expect(page.get_by_role("dialog")).to_be_visible()


async def dead_letters(page: Page, service: TidingsProcess) -> None:
    await show(page, service)
    await page.keyboard.press("d")
    group = page.locator('[data-reason="unknown-status"]')
    await group.locator("summary").first.click()
    await group.locator(".letters summary").first.click()
    await expect(group.locator("pre")).to_be_visible()


VIEWS = {
    "all": all_predictions,
    "nothing found": nothing_found,
    **{name: one(name) for name in ("several", "video", "audio", "model", "long-text", "failed")},
    "not archived": one("not-archived"),
    "long prompt": one("long-prompt"),
    "missing": lambda page, service: show(page, service, "#nobody"),
    "raw record": raw_record,
    "question": question,
    "dead letters": dead_letters,
}


@pytest.mark.parametrize("name", VIEWS)
async def test_axe_finds_nothing(page: Page, gallery: TidingsProcess, name: str) -> None:
    """No view keeps anybody out, in light and in dark colours, and on a phone."""
    await page.emulate_media(reduced_motion="reduce")
    await VIEWS[name](page, gallery)
    found = await findings(page)
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    found += [f"dark: {one}" for one in await findings(page)]
    await page.set_viewport_size({"width": 390, "height": 800})
    found += [f"phone: {one}" for one in await findings(page)]
    assert not found, "\n".join(found)


@pytest.mark.outage
async def test_axe_finds_nothing_without_the_service(
    page: Page, own_service: TidingsProcess
) -> None:
    """The empty page keeps nobody out, nor does the one that has lost its service."""
    await page.emulate_media(reduced_motion="reduce")
    await visit(page, own_service)
    await expect(page.locator("#welcome")).to_be_visible()
    assert not await findings(page)
    await own_service.kill()
    await expect(page.locator("#offline")).to_be_visible()
    assert not await findings(page)
    await page.emulate_media(color_scheme="dark", reduced_motion="reduce")
    assert not await findings(page)


async def test_nothing_moves_for_those_who_ask(page: Page, gallery: TidingsProcess) -> None:
    """Where motion is to be reduced, nothing on the page is animated."""
    await page.emulate_media(reduced_motion="reduce")
    await show(page, gallery)
    await expect(page.locator(".card").first).to_be_visible()
    assert await page.evaluate("document.getAnimations().length") == 0


async def test_axe_finds_nothing_in_the_question_for_a_token(
    context: BrowserContext, chromium: Browser, tmp_path: Path
) -> None:
    """Whoever has to sign in first is not kept out by the dialog that asks."""
    async with serving(tmp_path, {**SETTINGS, "TIDINGS_JWT_SECRET": KEY}) as service:
        page = await context.new_page()  # the browser notes the refused request in its console
        await page.goto(service.url)
        await expect(page.get_by_role("dialog")).to_be_visible()
        assert not await findings(page)
        await page.close()


async def test_the_http_reference_is_shown(page: Page, gallery: TidingsProcess) -> None:
    """`/docs` lists every endpoint and object of the OpenAPI document, and axe-core finds nothing in it."""
    errors: list[str] = []
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    await page.goto(f"{gallery.url}/docs")
    endpoints = [
        f"{method.upper()} {path}"
        for path, methods in openapi("")["paths"].items()
        for method in methods
    ]
    schemas = list(openapi("")["components"]["schemas"])
    await expect(page.locator("h3")).to_have_text([*endpoints, *schemas])
    await page.get_by_role("link", name="PredictionList").first.click()
    await expect(page.locator("#schema-PredictionList")).to_be_in_viewport()
    assert await findings(page) == []
    assert errors == []
