"""What somebody has in ten minutes: the wheel in an environment of its own, FastAPI, and a page of React."""

import subprocess
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from playwright.async_api import Page, expect

from tests.browser.reports import report
from tests.browser.test_mounted import APPLICATION
from tests.clients.test_examples import project
from tests.support import node
from tests.support.broker import free_port
from tests.support.distributions import environment_of, needed
from tests.support.root import ROOT
from tests.support.uvicorn_process import uvicorn
from tests.support.webhooks import SECRET
from tests.support.website import website
from tests.system.test_wheel import built


class Service(NamedTuple):
    """The application, mounted."""

    url: str


def linked(wheel: Path, folder: Path) -> Path:
    """An environment with the wheel and what its extra brings, as it is installed here."""
    return environment_of(wheel, folder, needed(["tidings[server]", "fastapi", "uvicorn"]))


def installed(wheel: Path, folder: Path) -> Path:
    """An environment as pip makes it, by the index that is configured."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    asked = (f"{wheel}[server]", "fastapi", "uvicorn")
    subprocess.run([python, "-m", "pip", "install", "--quiet", *asked], check=True, timeout=240)
    return python


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.outage  # the service ends before the page does
@pytest.mark.parametrize("made", [linked, pytest.param(installed, marks=pytest.mark.long)])
async def test_fastapi_beside_vite_and_react(
    page: Page, tmp_path: Path, made: Callable[[Path, Path], Path]
) -> None:
    """15 lines of FastAPI take a signed webhook and store on SQLite; 25 lines of React show it live.

    The application lies beside folders called as ours are, and the page on an origin of its own.
    """
    python = made(built(ROOT, tmp_path / "dist", "wheel"), tmp_path / "environment")
    application = tmp_path / "application"
    for name in ("storage", "gateway"):
        (application / name).mkdir(parents=True)
        (application / name / "__init__.py").write_text('raise ImportError("the project\'s own")\n')
    (application / "app.py").write_text(APPLICATION)
    (application / "index.html").write_text("<p>home</p>")
    site = project("react", tmp_path / "site")
    shown = [(site / name).read_text().splitlines() for name in ("index.html", "main.jsx")]
    assert len(APPLICATION.strip().splitlines()) <= 15
    assert sum(map(len, shown)) <= 25
    origin = f"http://127.0.0.1:{(port := free_port())}"
    settings = {"TIDINGS_STANDARD_SECRET": SECRET, "TIDINGS_ALLOWED_ORIGINS": origin}
    async with uvicorn("app:app", application, application, settings, python=python) as url:
        service = Service(f"{url}/predictions")
        node.run(
            *(node.tool("vite"), "build", "--logLevel", "warn"),
            folder=site,
            VITE_TIDINGS_URL=service.url,
        )
        with website(site / "dist", port):
            await page.goto(f"{origin}/?id=vite-1")
            await expect(page.locator("p")).to_have_text("waiting for vite-1")
            await report(service, "vite-1", "processing", progress=0.25)
            await expect(page.locator("progress")).to_have_js_property("value", 0.25)
            picture = "https://pictures.example/vite.png"
            await report(service, "vite-1", "succeeded", imageUrl=picture, prompt="a kite")
            await expect(page.get_by_alt_text("a kite")).to_have_js_property("naturalWidth", 1)
    assert (application / "data" / "store.db").is_file()
