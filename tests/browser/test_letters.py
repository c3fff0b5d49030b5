"""The dead letters on the page, as an admin sees them."""

from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Locator, Page, expect

from tests.browser.reports import FOR_EVER, KEY, SETTINGS
from tests.browser.test_page import WIDEST, visit
from tests.support.tidings_process import TidingsProcess, serving
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

pytestmark = pytest.mark.asyncio(loop_scope="session")

HEADERS = [("content-type", b"application/json"), ("x-service", b"<b>render</b>")]


async def append(folder: Path, *bad: tuple[bytes, bytes]) -> None:
    """Put records into the log of an embedded service."""
    log = await open_log(f"sqlite:///{folder}/data/log.db")
    try:
        await log.append(EVENTS, [NewRecord(key, value, HEADERS) for key, value in bad])
    finally:
        await log.close()


@pytest_asyncio.fixture(loop_scope="session")
async def troubled(own_service: TidingsProcess) -> TidingsProcess:
    """A service with three records that are no JSON and one of an unknown status."""
    unread = [(b"n-%d" % number, b"not json %d" % number) for number in range(3)]
    await append(
        own_service.folder,
        *unread,
        (b"done", b'{"status": "finished", "seed": 17454220438242315174}'),
    )
    return own_service


async def opened(page: Page, service: TidingsProcess) -> Locator:
    """The sheet, once its reasons are there."""
    await visit(page, service)
    await expect(page.locator("#letters-count")).to_have_text("4")
    await page.keyboard.press("d")
    sheet = page.get_by_role("dialog", name="Dead letters")
    await expect(sheet.locator("#letters-groups > li")).to_have_count(2)
    return sheet


def group(sheet: Locator, reason: str) -> Locator:
    return sheet.locator(f'[data-reason="{reason}"]')


@pytest.mark.outage  # the service ends before the page does
async def test_letters_are_listed_by_reason_and_shown_whole(
    page: Page, troubled: TidingsProcess
) -> None:
    """Counts and examples by reason; of each letter why it lies there, its headers, and a body that can be read."""
    sheet = await opened(page, troubled)
    await expect(sheet.locator("#letters-total")).to_contain_text("4 open")
    await expect(group(sheet, "not-json").locator(".number")).to_have_text("3")
    unknown = group(sheet, "unknown-status")
    await unknown.locator("summary").first.click()
    await expect(unknown.locator(".meaning")).to_contain_text("Unknown status.")
    await unknown.locator(".letters summary").click()
    await expect(unknown.locator(".why")).to_contain_text("finished")
    await expect(unknown.locator(".facts").last).to_contain_text("<b>render</b>")
    await expect(unknown.locator("pre")).to_have_text(
        '{\n  "status": "finished",\n  "seed": 17454220438242315174\n}'
    )
    await unknown.get_by_role("button", name="Show the prediction").click()
    await expect(sheet).to_be_hidden()
    await expect(page.locator("#detail .id")).to_have_text("done")


@pytest.mark.outage  # the service ends before the page does
async def test_redriving(page: Page, troubled: TidingsProcess) -> None:
    """One letter, those of a reason, and all are appended again, the last two after a second word; what returns is counted."""
    sheet = await opened(page, troubled)
    said, total = sheet.locator("#letters-said"), sheet.locator("#letters-total")
    unread = group(sheet, "not-json")
    await unread.locator("summary").first.click()
    await expect(unread.locator(".letters > li")).to_have_count(3)
    await unread.locator(".letters summary").first.click()
    await unread.get_by_role("button", name="Redrive this one").first.click()
    await expect(said).to_have_text("1 appended again. 1 came back.")
    await expect(unread.locator(".letters > li").first).to_contain_text("second time")
    await expect(total).to_contain_text("4 open, 1 redriven or dismissed")
    await sheet.get_by_label("Show these too").check()
    done = unread.locator(".letters > li", has_text="redriven, and came back")
    await expect(done).to_have_count(1)
    await sheet.get_by_label("Show these too").uncheck()
    await expect(unread.locator(".letters > li")).to_have_count(3)
    again = unread.get_by_role("button", name="Redrive these")
    await again.click()
    await expect(unread.get_by_role("button", name="Append these 3 again?")).to_be_focused()
    await expect(said).to_have_text("1 appended again. 1 came back.")  # nothing has happened yet
    await page.keyboard.press("Tab")
    await expect(again).to_be_visible()
    await again.click()
    await unread.get_by_role("button", name="Append these 3 again?").click()
    await expect(said).to_have_text("3 appended again. 3 came back.")
    await sheet.get_by_role("button", name="Redrive all").click()
    await sheet.get_by_role("button", name="Append all 4 again?").click()
    await expect(said).to_contain_text("4 appended again.")
    await expect(said).to_contain_text("4 came back.")
    await unread.get_by_role("button", name="Dismiss these").click()
    await unread.get_by_role("button", name="Dismiss these 3?").click()
    await expect(said).to_have_text("3 dismissed.")
    await expect(total).to_contain_text("1 open, 11 redriven or dismissed")
    await troubled.kill()
    await troubled.start()
    await visit(page, troubled)
    await expect(page.locator("#letters-count")).to_have_text("1")  # a restart forgets nothing


@pytest.mark.outage  # the service ends before the page does
async def test_letters_by_keys_and_on_a_phone(page: Page, troubled: TidingsProcess) -> None:
    """Everything is reached by keys, the way back leads where it began, and nothing is wider than a phone."""
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.emulate_media(color_scheme="dark")
    await visit(page, troubled)
    assert await page.evaluate(WIDEST) <= 360
    await page.get_by_role("button", name="Dead letters").focus()
    await page.keyboard.press("Enter")
    sheet = page.get_by_role("dialog", name="Dead letters")
    summary = group(sheet, "unknown-status").locator("summary").first
    await expect(summary).to_be_visible()
    for _ in range(6):
        await page.keyboard.press("Tab")
        if await summary.evaluate("node => node === document.activeElement"):
            break
    await expect(summary).to_be_focused()
    await page.keyboard.press("Enter")
    await expect(sheet.locator(".letters summary")).to_be_visible()
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await expect(sheet.locator("pre")).to_be_visible()
    assert await sheet.evaluate(
        "node => node.scrollWidth <= node.clientWidth && node.clientWidth <= 360"
    )
    await page.keyboard.press("Escape")
    await expect(sheet).to_be_hidden()
    await expect(page.get_by_role("button", name="Dead letters")).to_be_focused()


async def test_letters_are_offered_to_admins_alone(
    context: BrowserContext, chromium: Browser, tmp_path: Path
) -> None:
    """Whoever may see and change everything, but is no admin, is offered neither the letters nor the figures."""
    async with serving(tmp_path, {**SETTINGS, "TIDINGS_JWT_SECRET": KEY}) as service:
        page = await context.new_page()  # the browser notes refused requests in its console
        for scope, offered in (("watch:all read:all write", False), ("admin", True)):
            token = jwt.encode({"scope": scope, "exp": FOR_EVER}, KEY, "HS256")
            await page.add_init_script(f"sessionStorage.setItem('tidings.token', '{token}')")
            await page.goto(service.url)
            await expect(page.locator("#connection")).to_have_attribute("data-state", "open")
            await expect(page.locator("#letters")).to_be_visible(visible=offered)
            await expect(page.locator("#health")).to_be_visible(visible=offered)


@pytest_asyncio.fixture(loop_scope="session")
async def split(tmp_path: Path, chromium: Browser) -> AsyncIterator[TidingsProcess]:
    """A gateway beside a processor."""
    settings = {**SETTINGS, "TIDINGS_WEBHOOK_KEY": "00" * 32}
    async with (
        serving(tmp_path, settings, arguments=("serve", "--role", "processor")),
        serving(tmp_path, settings, arguments=("serve", "--role", "gateway")) as gateway,
    ):
        yield gateway


@pytest.mark.outage  # the service ends before the page does
async def test_the_lag_of_a_gateway_that_only_serves(page: Page, split: TidingsProcess) -> None:
    """Where others process, the page says so, shows what the gateway itself has to read, and has the dead letters."""
    await append(split.folder, (b"n", b"not json"))
    await visit(page, split)
    await expect(page.locator("#elsewhere")).to_be_visible()
    await expect(page.locator("#tiles > div:visible dt")).to_have_text(
        ["Changes", "Unread", "Sessions", "Conflated"]
    )
    await page.get_by_role("button", name="Dead letters").click()
    await expect(page.locator('[data-reason="not-json"] .number')).to_have_text("1")
