"""The examples for JavaScript run, each with the packed packages."""

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.browser.reports import SETTINGS, report
from tests.support import node
from tests.support.broker import free_port
from tests.support.conditions import eventually
from tests.support.root import ROOT
from tests.support.tidings_process import TidingsProcess, serving
from tests.support.uvicorn_process import uvicorn
from tidings.demo.stand_in import StandIn

EXAMPLES = ROOT / "examples"

SESSION = pytest.mark.asyncio(loop_scope="session")


def project(name: str, target: Path) -> Path:
    """A copy of an example with the packages in it."""
    shutil.copytree(EXAMPLES / name, target)
    (target / "node_modules").symlink_to(node.packages() / "node_modules")
    return target


@SESSION
@pytest.mark.outage  # the service ends before the page does
async def test_fastapi_and_react(page: Page, tmp_path: Path) -> None:
    """A page of FastAPI orders, watches, shows the text as it grows, and cancels, all below a prefix."""
    application = project("fastapi", tmp_path / "application")
    node.run(node.tool("vite"), "build", "--logLevel", "warn", folder=application)
    async with StandIn(duration=300) as provider:
        settings = {"TIDINGS_PUBLIC_URL": "{url}/predictions", **provider.environment()}
        async with uvicorn("app:app", application, application, settings) as url:
            await page.goto(url)
            await page.get_by_text("Draw").click()
            status = page.locator("p")
            await expect(status).to_have_text("processing")
            name = await status.get_attribute("id")
            async with httpx.AsyncClient(trust_env=False, base_url=f"{url}/predictions") as http:
                answer = await http.post(
                    f"/api/predictions/{name}/text",
                    content=b"two grey birds",
                    headers={"Content-Type": "text/plain"},
                )
                assert answer.is_success, answer.text
            await expect(page.locator("pre")).to_have_text("two grey birds")
            await page.get_by_text("Cancel").click()
            await expect(status).to_have_text("canceled")


OTHERS = {
    "vue": """
import { effectScope, ref, watch } from "vue";
import { usePrediction } from "./usePrediction.js";

const id = ref("other-1");
const scope = effectScope();
const { prediction } = scope.run(() => usePrediction(tidings, id));
watch(prediction, (record) => {
  if (record) console.log(record.predictionId, record.status);
  if (record?.predictionId === "other-1") id.value = "other-2";
  if (record?.predictionId === "other-2") scope.stop(), tidings.close();
}, { flush: "sync" });
""",
    "svelte": """
import { prediction } from "./prediction.js";

const stop = prediction(tidings, "other-1").subscribe((record) => {
  if (!record) return;
  console.log(record.predictionId, record.status);
  prediction(tidings, "other-2").subscribe((record) => {
    if (record) console.log(record.predictionId, record.status), tidings.close();
  });
});
""",
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def plain_service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TidingsProcess]:
    async with serving(tmp_path_factory.mktemp("plain"), SETTINGS) as running:
        await report(running, "other-1", "processing")
        await report(running, "other-2", "succeeded")
        yield running


@SESSION
@pytest.mark.parametrize("name", OTHERS)
async def test_vue_and_svelte(name: str, plain_service: TidingsProcess, tmp_path: Path) -> None:
    """The composable and the store follow a prediction, and another one in its place."""
    folder = project(name, tmp_path / name)
    made = 'import { Tidings } from "@tidings/client";\nconst tidings = new Tidings(process.argv[2]);\n'
    program = written(folder / "program.mjs", made + OTHERS[name])
    said = await node.printed("node", program, plain_service.url)
    assert said.splitlines() == ["other-1 processing", "other-2 succeeded"]


@SESSION
@pytest.mark.long
@pytest.mark.outage  # the service ends before the page does
async def test_the_next_example(page: Page, tmp_path: Path) -> None:
    """Next.js builds it; its first HTML has the status, the page goes on from there, and the route orders."""
    application = tmp_path / "application"
    shutil.copytree(EXAMPLES / "next", application)
    shutil.copytree(
        node.fetched(node.CLIENTS / "next") / "node_modules",
        application / "node_modules",
        symlinks=True,
    )
    shutil.copytree(
        node.packages() / "node_modules" / "@tidings", application / "node_modules" / "@tidings"
    )
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    settings = {**SETTINGS, "TIDINGS_ALLOWED_ORIGINS": origin}
    async with serving(tmp_path, settings, arguments=("demo",)) as service:
        env = {"TIDINGS_URL": service.url, "NEXT_PUBLIC_TIDINGS_URL": service.url}
        bin_next = application / "node_modules" / "next" / "dist" / "bin" / "next"
        node.run(
            "node",
            bin_next,
            "build",
            folder=application,
            within=300,
            NEXT_TELEMETRY_DISABLED="1",
            **env,
        )
        process = await asyncio.create_subprocess_exec(
            *("node", str(bin_next), "start", "--hostname", "127.0.0.1", "--port", str(port)),
            cwd=application,
            env={**os.environ, **env},
            stdout=asyncio.subprocess.DEVNULL,
        )
        try:
            async with httpx.AsyncClient(trust_env=False, base_url=origin, timeout=20) as http:

                async def ordered() -> str | None:
                    with contextlib.suppress(httpx.TransportError):
                        answer = await http.post("/api/predictions", json={"prompt": "a kite"})
                        return str(answer.json()["id"]) if answer.status_code == 201 else None
                    return None

                name = await found(ordered)
                html = (await http.get(f"/predictions/{name}")).text
                assert re.search(r'<p id="status">(starting|processing|succeeded)</p>', html)
                assert (await http.get("/predictions/nothing")).status_code == 404
            await page.goto(f"{origin}/predictions/{name}")
            await expect(page.locator("#status")).to_have_text("succeeded")
        finally:
            process.terminate()
            await process.wait()


async def found(look: Callable[[], Awaitable[str | None]]) -> str:
    """What a look finds at last."""
    seen: list[str] = []

    async def there() -> bool:
        if (one := await look()) is not None:
            seen.append(one)
        return bool(seen)

    await eventually(there, 30)
    return seen[0]


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_the_next_example_parses() -> None:
    """Every file of the Next.js example is TypeScript that a bundler takes; the long test builds and runs it."""
    for file in (EXAMPLES / "next").rglob("*.ts*"):
        if file.suffix in {".ts", ".tsx"}:
            node.run(node.tool("esbuild"), file, "--log-level=warning", folder=ROOT)
