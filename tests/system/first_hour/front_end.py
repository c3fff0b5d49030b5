"""A front-end developer: a service, a page that shows a prediction, and the picture on it.

`python -m tests.system.first_hour.front_end` prints the steps and their seconds.
"""

import shutil

from playwright.async_api import async_playwright, expect

from tests.support import system
from tests.support.tidings_process import serving
from tests.system.first_hour.steps import Hour, block, main, run_python

TUTORIAL = "docs/tutorial/getting-started.md"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


async def front_end(hour: Hour) -> None:
    """The tutorial, then the page of the README."""
    system.require(system.CHROMIUM)
    chromium = next(path for one in system.CHROMIUM.commands if (path := shutil.which(one)))
    assert f"TIDINGS_REPLICATE_SECRET={SECRET}" in block(TUTORIAL, "sh", "tidings serve")
    with hour.step("start the service as the tutorial says"):
        stack = serving(hour.folder, {"TIDINGS_REPLICATE_SECRET": SECRET})
        service = await stack.__aenter__()
    address = f"127.0.0.1:{service.port}"
    try:
        async with async_playwright() as playwright:
            with hour.step("open the service's own page"):
                browser = await playwright.chromium.launch(
                    executable_path=chromium, args=["--no-sandbox"]
                )
                page = await browser.new_page()
                await page.goto(service.url)
                await expect(page.locator("#welcome")).to_be_visible()
            with hour.step("open the README's page, which watches p1"):
                mine = await browser.new_page()
                await mine.goto(f"{service.url}/healthz")
                await mine.set_content(block("README.md", "html"))
            with hour.step("send the tutorial's signed report, and see it on both pages"):
                said = await run_python(hour.folder, block(TUTORIAL, "python"), address)
                assert said.strip() == "200"
                await expect(mine).to_have_title("succeeded")
                await expect(page.locator(".card .status")).to_have_text("Succeeded")
            with hour.step("read it back as the tutorial does"):
                assert "/api/predictions/p1" in block(TUTORIAL, "sh", "curl")
                answer = await page.request.get(f"{service.url}/api/predictions/p1")
                record = (await answer.json())["data"]
                steps = [step["to"] for step in record["transitions"]]
                assert steps == ["starting", "processing", "succeeded"]
            await browser.close()
    finally:
        await stack.__aexit__(None, None, None)


if __name__ == "__main__":
    main(front_end)
