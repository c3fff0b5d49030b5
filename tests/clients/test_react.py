"""The React hooks from the packed packages, in real React 18 and 19, in Chromium and on a server."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import jwt
import msgspec
import pytest
import pytest_asyncio
from playwright.async_api import Page, WebSocket, expect

from tests.browser.reports import KEY, SETTINGS, report
from tests.support import node
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tidings import Client

pytestmark = pytest.mark.asyncio(loop_scope="session")

PAGES = Path(__file__).parent / "pages"
DEVELOPMENT = '--define:process.env.NODE_ENV="development"'
REACT = {19: (), 18: ("--alias:react=react18", "--alias:react-dom=react-dom18")}


@pytest.fixture(scope="module", params=REACT)
def react(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the page's script and the server's, with one version of React."""
    folder = tmp_path_factory.mktemp(f"react{request.param}")
    aliases = REACT[request.param]
    node.bundled(PAGES / "react.jsx", folder / "page.js", DEVELOPMENT, *aliases)
    on_server = ("--platform=node", "--format=cjs", DEVELOPMENT)
    node.bundled(PAGES / "server.jsx", folder / "server.cjs", *on_server, *aliases)
    return folder


class Shown:
    """The page with what it shows."""

    def __init__(self, page: Page, folder: Path, service: TidingsProcess) -> None:
        self.page = page
        self.sockets: list[WebSocket] = []
        self.sent: list[dict[str, Any]] = []
        self._folder = folder
        self._service = service
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        if "/api/ws" in socket.url:
            self.sockets.append(socket)
            socket.on("framesent", lambda payload: self.sent.append(json.loads(payload)))

    async def open(self, html: str = "", **show: Any) -> "Shown":
        """Load the page from the service's own origin."""
        await self.page.goto(f"{self._service.url}/healthz")
        await self.page.set_content(f"<!doctype html><div id=root>{html}</div>")
        await self.page.evaluate("(show) => void (window.show = show)", show)
        await self.page.add_script_tag(path=self._folder / "page.js", type="module")
        return self

    async def show(self, **show: Any) -> None:
        """Show something else in its place."""
        await self.page.evaluate("(show) => setShow(show)", show)

    async def ones(self, *expected: str) -> None:
        """Wait for what the components of one prediction show."""
        await expect(self.page.locator(".one")).to_have_text(expected)

    async def many(self, expected: str) -> None:
        """Wait for what the component of many shows."""
        await expect(self.page.locator(".many")).to_have_text(expected)

    def watched(self) -> list[Any]:
        """What was subscribed to, in turn."""
        asked = [one for one in self.sent if one["type"] == "subscribe"]
        return [one.get("predictions") or one.get("owner") for one in asked]


@pytest_asyncio.fixture(loop_scope="session")
async def shown(page: Page, react: Path, service: TidingsProcess) -> Shown:
    return Shown(page, react, service)


async def test_one_prediction(shown: Shown, service: TidingsProcess, react: Path) -> None:
    """A component shows each newer version; two of the same prediction share one subscription."""
    name = f"r-{react.name}"
    await shown.open(ones=[name, name, f"{name}-none"])
    await shown.ones(f"{name} none ", f"{name} none ", f"{name}-none none ")
    await report(service, name, "starting")
    await shown.ones(f"{name} starting 1", f"{name} starting 1", f"{name}-none none ")
    await report(service, name, "succeeded")
    await shown.ones(f"{name} succeeded 2", f"{name} succeeded 2", f"{name}-none none ")
    assert len(shown.sockets) == 1
    assert sorted(one for ids in shown.watched() for one in ids) == [name, f"{name}-none"]
    assert not any(one["type"] == "unsubscribe" for one in shown.sent)


async def test_another_prediction_in_its_place(
    shown: Shown, service: TidingsProcess, react: Path
) -> None:
    """A changed id shows nothing of the former one; the connection stays the same."""
    first, second = f"c1-{react.name}", f"c2-{react.name}"
    await report(service, first, "starting")
    await report(service, second, "processing")
    await shown.open(ones=[first])
    await shown.ones(f"{first} starting 1")
    await shown.show(ones=[second])
    await shown.ones(f"{second} processing 1")
    await shown.show(ones=[])
    await eventually(lambda: [one["type"] for one in shown.sent].count("unsubscribe") == 2)
    assert len(shown.sockets) == 1


async def test_many_predictions(shown: Shown, service: TidingsProcess, react: Path) -> None:
    """An owner's predictions are there, newest first, as they change; a new object that says the same changes nothing."""
    owner = f"many-{react.name}"
    await report(service, f"{owner}-1", "starting", owner=owner)
    await report(service, f"{owner}-2", "starting", owner=owner)
    await shown.open(many={"owner": owner})
    await shown.many(f"all {owner}-2:1 {owner}-1:1")
    await report(service, f"{owner}-1", "processing", owner=owner)
    await shown.many(f"all {owner}-2:1 {owner}-1:2")
    await report(service, f"{owner}-3", "starting", owner=owner)
    await shown.many(f"all {owner}-3:1 {owner}-2:1 {owner}-1:2")
    await shown.show(many={"owner": owner}, ones=[f"{owner}-3"])
    await shown.ones(f"{owner}-3 starting 1")
    assert shown.watched().count(owner) == 1


async def test_a_growing_text(shown: Shown, service: TidingsProcess, react: Path) -> None:
    """A component shows a text as it grows, beside the record, and says when it is whole or has failed."""
    name = f"t-{react.name}"
    await shown.open(text=name)
    text = shown.page.locator(".text")
    await expect(text).to_have_text("loading ")
    await report(service, name, "processing")
    await append(service, name, "the quick")
    await expect(text).to_have_text("growing the quick")
    await append(service, name, " brown fox")
    await expect(text).to_have_text("growing the quick brown fox")
    await report(service, name, "succeeded")
    await expect(text).to_have_text("done the quick brown fox")
    await report(service, f"{name}-2", "processing")
    await append(service, f"{name}-2", "half a")
    await shown.show(text=f"{name}-2")
    await expect(text).to_have_text("growing half a")
    await report(service, f"{name}-2", "failed", error="out of words")
    await expect(text).to_have_text("failed half a")
    assert len(shown.sockets) == 1


async def append(service: TidingsProcess, name: str, piece: str) -> None:
    """Add a piece to a text."""
    async with httpx.AsyncClient(trust_env=False, base_url=service.url) as http:
        answer = await http.post(
            f"/api/predictions/{name}/text",
            content=piece.encode(),
            headers={"Content-Type": "text/plain"},
        )
        assert answer.is_success, answer.text


async def test_what_the_server_has_read_is_shown_first(
    shown: Shown, service: TidingsProcess, react: Path
) -> None:
    """Server and page show the snapshot alike, and the page goes on from there: no flash, nothing fetched twice."""
    name, owner = f"s-{react.name}", f"so-{react.name}"
    await report(service, name, "starting", owner=owner)
    snapshot = [await record(service, name)]
    what = {"ones": [name], "many": {"owner": owner}, "snapshot": snapshot}
    html = node.run("node", react / "server.cjs", json.dumps(what), folder=react)
    assert f"{name} starting 1" in html
    assert f"loading {name}:1" not in html
    assert f"all {name}:1" in html
    await report(service, name, "processing", owner=owner)
    await shown.open(html.strip(), **what)
    await shown.ones(f"{name} processing 2")
    await shown.many(f"all {name}:2")
    seen = await shown.page.evaluate("seen")
    assert None not in seen
    assert sorted(seen) == seen
    known = [one["known"] for one in shown.sent if one["type"] == "subscribe"]
    assert known == [{name: 1}, {name: 1}]


@pytest.mark.outage  # the service ends before the page does
async def test_another_user_gets_another_connection(
    page: Page, react: Path, tmp_path: Path
) -> None:
    """The provider's key is the user: the former connection is closed, and what it saw is gone."""
    async with serving(tmp_path, SETTINGS | {"TIDINGS_JWT_SECRET": KEY}) as service:

        def token(owner: str) -> str:
            return jwt.encode({"sub": owner, "exp": 2**33}, KEY, algorithm="HS256")

        for owner in ("ann", "bob"):
            await report(service, f"of-{owner}", "starting", owner=owner)
        shown = await Shown(page, react, service).open(
            ones=["of-ann", "of-bob"], user="ann", token=token("ann")
        )
        await shown.ones("of-ann starting 1", "of-bob none ")
        await shown.show(ones=["of-ann", "of-bob"], user="bob", token=token("bob"))
        await shown.ones("of-ann none ", "of-bob starting 1")
        await eventually(lambda: [one.is_closed() for one in shown.sockets] == [True, False])
        await shown.page.get_by_text("read").click()
        await shown.page.wait_for_function("window.read === 'starting'")


async def record(service: TidingsProcess, name: str) -> Mapping[str, Any]:
    """A prediction as the service shows it."""
    async with Client(service.url) as client:
        answer = await client.get(name)
    found: Mapping[str, Any] = msgspec.json.decode(msgspec.json.encode(answer))
    return found
