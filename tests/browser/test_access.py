"""The page of a service that asks for tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import jwt
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, expect

from tests.browser.reports import FOR_EVER, KEY, SETTINGS, report
from tests.support.tidings_process import TidingsProcess, serving

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session")
async def secured(tmp_path: Path, chromium: Browser) -> AsyncIterator[TidingsProcess]:
    """A service that asks for tokens, with a prediction of ada's and one of grace's."""
    async with serving(tmp_path, {**SETTINGS, "TIDINGS_JWT_SECRET": KEY}) as running:
        await report(running, "of-ada", "processing", prompt="an engine", owner="ada")
        await report(running, "of-grace", "processing", prompt="a compiler", owner="grace")
        yield running


async def test_tokens(context: BrowserContext, secured: TidingsProcess) -> None:
    """The page asks for a token, says what is wrong with one, and shows what the next one covers, and no more."""
    page = await context.new_page()  # the browser notes refused requests in its console
    await page.goto(secured.url)
    dialog = page.locator("#token-dialog")
    await dialog.get_by_label("Token").fill("nonsense")
    await page.keyboard.press("Enter")
    await expect(dialog.locator(".problem")).to_contain_text("refused")
    await dialog.get_by_label("Token").fill(
        jwt.encode({"sub": "ada", "exp": FOR_EVER}, KEY, "HS256")
    )
    await page.keyboard.press("Enter")
    await expect(page.locator(".card .prompt")).to_have_text(["an engine"])
    await expect(page.locator("#notice p")).to_have_text(
        "This token covers the predictions of ada."
    )
    await expect(page.locator("#health")).to_be_hidden()
    await report(secured, "of-ada", "succeeded", output="it computes")
    await expect(page.locator(".card .excerpt")).to_have_text("it computes")
    await page.get_by_role("button", name="Sign out").click()
    await expect(dialog).to_be_visible()
    await dialog.get_by_label("Token").fill(
        jwt.encode({"scope": "admin", "exp": FOR_EVER}, KEY, "HS256")
    )
    await page.keyboard.press("Enter")
    await expect(page.locator(".card .prompt")).to_have_text(["a compiler", "an engine"])
    await expect(page.locator("#health")).to_be_visible()
