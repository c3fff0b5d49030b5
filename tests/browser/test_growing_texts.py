"""The page while an answer is being written."""

import httpx
import pytest
from playwright.async_api import Page, expect

from tests.support.tidings_process import TidingsProcess

pytestmark = pytest.mark.asyncio(loop_scope="session")

PLAIN = {"Content-Type": "text/plain"}


async def test_a_growing_answer_is_shown_as_text(page: Page, service: TidingsProcess) -> None:
    """An answer grows on its card and beside it, with a caret, as text and never as HTML; a reload has all of it."""
    url = f"{service.url}/api/predictions/answer/text"
    said = '**Bold** <b>x</b><img src=x onerror="window.hacked = true">'
    async with httpx.AsyncClient() as client:
        await client.put(url, headers=PLAIN, content=said)
        await page.goto(f"{service.url}/#answer")
        shown = page.locator("pre.output.growing")
        await shown.wait_for()
        assert await shown.text_content() == said
        await page.locator(".card .excerpt.growing").first.wait_for()
        for word in (" and", " more", " <i>words</i>"):
            await client.post(url, headers=PLAIN, content=word)
            said += word
        await expect(page.locator("pre.output")).to_have_text(said)
        await page.reload()
        await expect(page.locator("pre.output")).to_have_text(said)
        await client.post(url, headers={"Stream-Closed": "true"})
        await expect(page.locator("pre.growing")).to_have_count(0)
        assert await page.locator("pre.output").text_content() == said
        assert await page.locator("pre.output *").count() == 0
        assert not await page.evaluate("Boolean(window.hacked)")
        listed = (await client.get(f"{service.url}/api/predictions?limit=1000")).json()["data"]
    (answer,) = [one for one in listed if one["predictionId"] == "answer"]
    assert answer["textLength"] == len(said.encode())
    assert "text" not in answer
