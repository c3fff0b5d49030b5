"""The page of `tidings demo`: everything from the form to the picture, and a cancel that reaches the provider."""

from pathlib import Path

import pytest
from playwright.async_api import Browser, Page, expect

from tests.browser.test_page import card, visit
from tests.support.axe import findings
from tests.support.tidings_process import serving

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.mark.outage  # the demo ends before the page does
async def test_the_demo(page: Page, chromium: Browser, tmp_path: Path) -> None:
    """A prediction that is started in the form shows its picture as it sharpens, and another one is canceled."""
    async with serving(tmp_path, arguments=("demo",)) as service:
        await visit(page, service)
        await expect(card(page, "a lighthouse in a storm").locator("img")).to_have_js_property(
            "naturalWidth", 384
        )
        form, detail = page.locator("#start-form"), page.locator("#detail")
        await page.keyboard.press("n")
        await expect(form).to_be_visible()
        assert not await findings(page)
        await form.get_by_label("Prompt").fill("two herons")
        await form.get_by_label("Owner").fill("ada")
        await form.get_by_label("Seconds").fill("1")
        await form.get_by_role("button", name="Start").click()
        await expect(detail.locator("h2")).to_have_text("two herons")
        await expect(detail.locator(".line .status")).to_have_text("Succeeded")
        await expect(detail.locator(".outputs img")).to_have_js_property("naturalWidth", 384)
        await expect(detail.locator("dl.facts")).to_contain_text("ada")
        await page.keyboard.press("Escape")
        await page.keyboard.press("n")
        await form.get_by_label("Seconds").fill("300")
        await form.get_by_label("Prompt").fill("too many herons")
        await form.get_by_role("button", name="Start").click()
        await expect(detail.locator("h2")).to_have_text("too many herons")
        await expect(detail.locator(".line .status")).to_have_text("Processing")
        await detail.get_by_role("button", name="Cancel").click()
        await page.get_by_role("button", name="Cancel it").click()
        await expect(detail.locator(".line .status")).to_have_text("Canceled")
