"""The service inside an application of fifteen lines, as the pages of two origins use it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, expect

from tests.browser.reports import PICTURE
from tests.support.broker import free_port
from tests.support.conditions import eventually
from tests.support.uvicorn_process import uvicorn
from tests.support.webhooks import SECRET, signed
from tests.support.website import website

pytestmark = pytest.mark.asyncio(loop_scope="session")

APPLICATION = """
import tidings
from fastapi import FastAPI
from fastapi.responses import FileResponse

predictions = tidings.asgi()
app = FastAPI(lifespan=predictions.lifespan)
app.mount("/predictions", predictions)


@app.get("/")
async def home():
    return FileResponse("index.html")
"""

PAGE = """<!doctype html>
<link rel="icon" href="data:,">
<p id="status">waiting</p>
<img id="watched" alt=""><img id="read" alt=""><img id="asset" alt="">
<script type="module">
  const { Tidings } = await import("SERVICE/static/tidings.js");
  const tidings = new Tidings("SERVICE");
  tidings.watch("p1", async (record) => {
    if (record.assets) {
      watched.src = record.imageUrl;
      const { data } = await tidings.list({ status: "succeeded" });
      asset.src = data[0].assets[0].url;
      read.src = (await tidings.get("p1")).imageUrl;
    }
    document.getElementById("status").textContent = record.status;
  });
</script>
"""

OTHER = "https://pages.example"
"""Of no service and in no setting."""


class Mounted:
    """The application, and a page of another origin that it lets in."""

    def __init__(self, url: str, elsewhere: str) -> None:
        self.url = url
        self.service = f"{url}/predictions"
        self.elsewhere = elsewhere

    async def report(self, status: str, **fields: object) -> None:
        """Bring a signed webhook about p1."""
        body = json.dumps({"predictionId": "p1", "status": status, **fields}).encode()
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.post(
                f"{self.service}/api/webhooks/standard", content=body, headers=signed(body)
            )
        assert answer.status_code == 200, answer.text


@pytest_asyncio.fixture(loop_scope="session")
async def mounted(tmp_path: Path) -> AsyncIterator[Mounted]:
    """The application behind uvicorn, beside folders that are named as ours, storing on SQLite."""
    assert len(APPLICATION.strip().splitlines()) <= 15
    application, site = tmp_path / "application", tmp_path / "site"
    for name in ("storage", "gateway"):
        (application / name).mkdir(parents=True)
        (application / name / "__init__.py").write_text('raise ImportError("the project\'s own")\n')
    (application / "app.py").write_text(APPLICATION)
    (application / "index.html").write_text(PAGE.replace("SERVICE", "/predictions"))
    site.mkdir()
    (site / "picture.png").write_bytes(PICTURE)
    port = free_port()
    elsewhere = f"http://localhost:{port}"
    settings = {
        "TIDINGS_STANDARD_SECRET": SECRET,
        "TIDINGS_ALLOWED_ORIGINS": elsewhere,
        "TIDINGS_ASSETS": f"file:///{tmp_path}/assets",
        "TIDINGS_ASSETS_ALLOW": f"127.0.0.1:{port}",
    }
    async with uvicorn("app:app", application, application, settings) as url:
        (site / "index.html").write_text(PAGE.replace("SERVICE", f"{url}/predictions"))
        with website(site, port):
            yield Mounted(url, elsewhere)
        assert (application / "data" / "store.db").is_file()


@pytest.mark.outage  # the service ends before the page does
@pytest.mark.parametrize("where", ["url", "elsewhere"])
async def test_a_picture_is_pushed(mounted: Mounted, page: Page, where: str) -> None:
    """A signed webhook shows live on a page of the application and of another origin, archived pictures included."""
    await page.goto(getattr(mounted, where))
    status = page.locator("#status")
    await expect(status).to_have_text("waiting")
    await mounted.report("processing")
    await expect(status).to_have_text("processing")
    picture = f"http://127.0.0.1:{mounted.elsewhere.rpartition(':')[2]}/picture.png"
    await mounted.report("succeeded", imageUrl=picture)
    await expect(status).to_have_text("succeeded")
    for image in ("#watched", "#read", "#asset"):
        shown = page.locator(image)
        await expect(shown).to_have_js_property("naturalWidth", 1)
        address = await shown.evaluate("(image) => image.src")
        assert address.startswith(f"{mounted.service}/assets/")


READS = """async ([service, path, method]) => {
  const controller = new AbortController();
  const body = method === "POST" ? JSON.stringify([{ type: "subscribe", predictions: ["p1"] }]) : undefined;
  const headers = { "Content-Type": "application/json", Authorization: "Bearer none" };
  try {
    const answer = await fetch(service + path, { method, body, headers, signal: controller.signal });
    const { value } = await answer.body.getReader().read();
    controller.abort();
    return [answer.status, value.length > 0];
  } catch (error) {
    return error.name;
  }
}"""
"""What is asked with these headers is asked after a preflight."""

PATHS = {
    "REST": ("/api/predictions/p1", "GET"),
    "a stream by GET": ("/api/predictions/p1/events", "GET"),
    "a stream by POST": ("/api/events", "POST"),
    "assets": ("{asset}", "GET"),
}


@pytest.mark.outage  # what is refused shows as a lost request
async def test_one_setting_lets_an_origin_in(mounted: Mounted, context: BrowserContext) -> None:
    """A page that is named reads REST, event streams and assets, after a preflight; another one reads none of them."""
    picture = f"http://127.0.0.1:{mounted.elsewhere.rpartition(':')[2]}/picture.png"
    await mounted.report("succeeded", imageUrl=picture)
    async with httpx.AsyncClient(trust_env=False, base_url=mounted.service) as http:

        async def archived() -> str | None:
            answer = await http.get("/api/predictions/p1")
            assets = answer.json()["data"].get("assets") if answer.is_success else None
            return assets[0]["url"] if assets else None

        await eventually(archived, 20)
        asset = await archived()
        assert asset is not None
        for path, _ in PATHS.values():
            refused = await http.get(path.format(asset=asset), headers={"Origin": OTHER})
            assert refused.status_code == 403
            problem = refused.json()
            assert problem["code"] == "foreign-origin"
            assert problem["detail"] == (
                f"Pages of '{OTHER}' may not use this service; "
                "add the origin to TIDINGS_ALLOWED_ORIGINS."
            )
    await context.route(
        f"{OTHER}/", lambda route: route.fulfill(body="<p>", content_type="text/html")
    )
    page = await context.new_page()
    for origin, expected in ((mounted.elsewhere, [200, True]), (OTHER, "TypeError")):
        await page.goto(f"{origin}/")
        for name, (path, method) in PATHS.items():
            asked = [mounted.service, path.format(asset=asset), method]
            assert await page.evaluate(READS, asked) == expected, (origin, name)
