"""tidings.js, as a page of somebody's own uses it."""

import json
import time
from signal import Signals
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from playwright.async_api import BrowserContext, Page, WebSocket, WebSocketRoute

from tests.browser.reports import KEY, SETTINGS, report
from tests.support.conditions import eventually
from tests.support.tidings_process import TidingsProcess, serving
from tidings.streams.log.factory import open_log
from tidings.streams.log.protocol import EVENTS, NewRecord

pytestmark = pytest.mark.asyncio(loop_scope="session")

SETUP = """async (options) => {
  const { Tidings, TidingsError } = await import("/static/tidings.js");
  Object.assign(window, { Tidings, TidingsError, got: [], states: [] });
  if (options.mint) options.token = () => mint();
  delete options.mint;
  window.tidings = new Tidings(location.origin, options);
  tidings.addEventListener("state", ({ detail }) => states.push(detail.state));
  window.brief = ({ predictionId, version, status, deleted }) => `${predictionId} ${deleted ? "deleted" : status} ${version}`;
  window.keep = (record) => got.push(brief(record));
}"""

BLOCKED = """
const Real = WebSocket;
window.blocked = true;
window.WebSocket = class extends Real {
  constructor(url, protocols) { super(blocked ? "ws://127.0.0.1:1/" : url, protocols); }
};
"""
"""A network that lets no WebSocket through, until `blocked` is false."""


class Tab:
    """A page with the client in it, and what its WebSockets say."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.sent: list[dict[str, Any]] = []
        self.sockets: list[WebSocket] = []
        page.on("websocket", self._listen)

    def _listen(self, socket: WebSocket) -> None:
        self.sockets.append(socket)
        socket.on("framesent", lambda payload: self.sent.append(json.loads(payload)))

    async def open(self, service: TidingsProcess, **options: Any) -> "Tab":
        """Load the client: `tidings`, with `got` for what `keep` is called with."""
        await self.page.goto(f"{service.url}/healthz")
        await self.page.evaluate(SETUP, options)
        return self

    async def run(self, script: str) -> Any:
        """Evaluate, wait for a promise, and return what came out."""
        return await self.page.evaluate(script)

    async def gets(self, *updates: str) -> None:
        """Wait until the last updates that `keep` got are these."""

        async def so() -> bool:
            got: list[str] = await self.page.evaluate("got")
            return tuple(got[-len(updates) :]) == updates

        await eventually(so, 20)

    def subscriptions(self) -> list[dict[str, Any]]:
        """What was asked for, over all connections, without the refs."""
        asked = [message for message in self.sent if message["type"] == "subscribe"]
        return [
            {name: value for name, value in message.items() if name not in ("type", "ref", "text")}
            for message in asked
        ]


@pytest_asyncio.fixture(loop_scope="session")
async def tab(page: Page) -> Tab:
    """A tab of the test's own."""
    return Tab(page)


async def test_watch(tab: Tab, service: TidingsProcess) -> None:
    """A callback gets the record as it stands and every newer one; after `close` it gets nothing."""
    await report(service, "w-1", "starting")
    await tab.open(service)
    await tab.run("window.watch = tidings.watch('w-1', keep); watch.synced")
    await tab.gets("w-1 starting 1")
    await report(service, "w-1", "processing")
    await report(service, "w-1", "succeeded")
    await tab.gets("w-1 starting 1", "w-1 processing 2", "w-1 succeeded 3")
    await tab.run(
        "watch.close(); window.other = tidings.watch({ predictions: ['w-1', 'w-2'] }, keep); other.synced"
    )
    await report(service, "w-2", "failed", error="no")
    await tab.gets("w-1 succeeded 3", "w-2 failed 1")
    assert len(tab.sockets) == 1


async def test_for_await(tab: Tab, service: TidingsProcess) -> None:
    """An iteration that is slow skips to the newest, and leaving it ends the watch."""
    await report(service, "i-1", "starting")
    await tab.open(service)
    await tab.run("""(async () => {
      for await (const record of tidings.watch("i-1")) {
        keep(record);
        if (record.status === "succeeded") break;
        await new Promise((resolve) => (window.go = resolve));
      }
      got.push("left");
    })(), new Promise((resolve) => setInterval(() => window.go && resolve(), 10))""")
    await report(service, "i-1", "processing")
    await report(service, "i-1", "succeeded")
    await tab.run("tidings.finished('i-1')")
    await tab.run("go()")
    await tab.gets("i-1 starting 1", "i-1 succeeded 3", "left")
    await eventually(lambda: tab.sent[-1]["type"] == "unsubscribe")


async def test_finished(tab: Tab, service: TidingsProcess) -> None:
    """`finished` gives the record of the end, also for one that ended long ago; it fails where it is deleted."""
    await tab.open(service)
    await tab.run("window.end = tidings.finished('e-1'), 0")
    await report(service, "e-1", "processing")
    await report(service, "e-1", "failed", error="out of luck")
    assert (await tab.run("end"))["error"] == "out of luck"
    assert (await tab.run("tidings.finished('e-1')"))["status"] == "failed"
    await report(service, "e-2", "processing")
    await tab.run(
        "window.end = tidings.finished('e-2').catch((error) => error.code), tidings.watch('e-2').synced"
    )
    await tab.run("fetch('/api/predictions/e-2', { method: 'DELETE' })")
    assert await tab.run("end") == "deleted"
    assert await tab.run(
        "tidings.finished('e-3', { signal: AbortSignal.timeout(50) }).catch((error) => error.name)"
    ) == ("TimeoutError")


async def test_attempts(tab: Tab, service: TidingsProcess) -> None:
    """With `latest` a watch goes on with the next attempt, and `finished` waits for the last one's end."""
    await tab.open(service)
    await tab.run("tidings.watch({ predictions: ['try-1'], latest: true }, keep).synced")
    await tab.run("window.end = tidings.finished('try-1', { latest: true }), 0")
    log = await open_log(f"sqlite:///{next(service.folder.rglob('log.db'))}")
    try:
        order = b'{"type": "create", "provider": "acme", "model": "m", "retries": 1}'
        await log.append(EVENTS, [NewRecord(b"try-1", order)])
    finally:
        await log.close()
    await tab.gets("try-1 starting 1")  # or it is folded into the next change
    await report(service, "try-1", "failed")
    following = """fetch('/api/predictions/try-1?latest=1')
      .then((answer) => answer.json()).then(({ data }) => data.predictionId)"""

    async def begun() -> bool:
        return bool(await tab.run(following) != "try-1")

    await eventually(begun)
    name = await tab.run(following)
    await report(service, name, "succeeded")
    assert (await tab.run("end"))["predictionId"] == name
    got = await tab.run("got")
    assert got[0] == "try-1 starting 1"
    assert got[-1].startswith(f"{name} succeeded")


async def test_wide_watches(tab: Tab, service: TidingsProcess) -> None:
    """Owner, tag, model and all are watched over one connection, each told of its own, deletions included."""
    await tab.open(service)
    await tab.run("""
      window.by = { owner: [], tag: [], model: [] };
      Promise.all([["owner", "o1"], ["tag", "t1"], ["model", "m1"]].map(
        ([kind, name]) => tidings.watch({ [kind]: name }, (record) => by[kind].push(brief(record))).synced))""")
    await report(service, "wide-1", "processing", owner="o1", tags=["t1", "t2"])
    await report(service, "wide-2", "processing", owner="o2", model="m1")
    await tab.run("tidings.watch({ all: true }, keep).synced")
    assert {"wide-1 processing 1", "wide-2 processing 1"} <= set(await tab.run("got"))
    await tab.run("fetch('/api/predictions/wide-1', { method: 'DELETE' })")
    await tab.gets("wide-1 deleted 2")
    one = ["wide-1 processing 1", "wide-1 deleted 2"]
    assert await tab.run("by") == {"owner": one, "tag": one, "model": ["wide-2 processing 1"]}
    with pytest.raises(Exception, match="exactly one of"):
        await tab.run("tidings.watch({ owner: 'o1', tag: 't1' })")


@pytest.mark.outage
async def test_it_resumes(tab: Tab, own_service: TidingsProcess) -> None:
    """After a kill and a restart it says what it knows, and gets what is newer alone."""
    for name in ("r-1", "r-2", "r-3"):
        await report(own_service, name, "processing", owner="rosalind")
    await tab.open(own_service, transport="websocket")
    await tab.run(
        "Promise.all([tidings.watch({ owner: 'rosalind' }, keep), tidings.watch('r-1')].map((one) => one.synced))"
    )
    assert len(await tab.run("got")) == 3
    await own_service.kill()
    await eventually(lambda: tab.run("tidings.state === 'waiting'"), 20)
    await own_service.start()
    await report(own_service, "r-2", "succeeded")
    await tab.gets("r-2 succeeded 2")
    await eventually(lambda: tab.run("tidings.state === 'open'"), 20)
    assert len(await tab.run("got")) == 4
    again = [asked for asked in tab.subscriptions() if asked.get("known")]
    assert {"predictions": ["r-1"], "known": {"r-1": 1}} in again
    wide = next(asked for asked in again if "owner" in asked)
    assert {"r-1": 1, "r-3": 1}.items() <= wide["known"].items()


async def test_nothing_older(tab: Tab, service: TidingsProcess) -> None:
    """Whatever comes late or twice, no version follows that is not newer than what was handed out."""

    def repeat(socket: WebSocketRoute) -> None:
        server, said = socket.connect_to_server(), list[str | bytes]()

        def pass_on(message: str | bytes) -> None:
            said.append(message)
            for one in said[1:] or said:  # all but the welcome
                socket.send(one)

        server.on_message(pass_on)

    await tab.page.route_web_socket("**/api/ws", repeat)
    await tab.open(service)
    await tab.run("tidings.watch('o-1', keep).synced")
    for status in ("starting", "processing", "succeeded"):
        await report(service, "o-1", status)
    await tab.gets("o-1 succeeded 3")
    await report(service, "o-1", output="late")
    await tab.gets("o-1 succeeded 4")
    versions = [int(one.split()[-1]) for one in await tab.run("got")]
    assert versions == sorted(set(versions))


async def test_known_from_before(tab: Tab, service: TidingsProcess) -> None:
    """Versions that a page kept from an earlier visit are not handed out again."""
    await report(service, "kn-1", "processing")
    await report(service, "kn-2", "processing")
    await tab.open(service)
    await tab.run(
        "tidings.watch({ predictions: ['kn-1', 'kn-2'], known: { 'kn-1': 1 } }, keep).synced"
    )
    assert await tab.run("got") == ["kn-2 processing 1"]
    await report(service, "kn-1", "succeeded")
    await tab.gets("kn-2 processing 1", "kn-1 succeeded 2")


@pytest.mark.outage
async def test_goodbye(tab: Tab, own_service: TidingsProcess) -> None:
    """A service that goes away in order says when to come back, and the client comes back then."""
    await tab.open(own_service)
    await tab.run("tidings.watch('g-1', keep).synced")
    before = time.time() * 1000
    await own_service.stop()
    await eventually(lambda: tab.run("tidings.state === 'waiting'"))
    assert before < await tab.run("tidings.retryAt") < before + 60_000
    await tab.run("tidings.close()")
    assert await tab.run("tidings.state") == "closed"


async def test_no_wait_is_longer_than_the_outage_has_lasted(
    tab: Tab, service: TidingsProcess
) -> None:
    """It comes back after half a second at most, then after up to as long again as it has lasted, 20 s at most."""
    await tab.page.clock.install()
    await tab.page.route_web_socket("**/api/ws", lambda route: route.close(code=1011))
    await tab.open(service)
    await tab.run(
        """(() => {
            window.waits = [];
            let began;
            tidings.addEventListener("state", ({ detail: { state, retryAt } }) => {
                if (state === "waiting") waits.push([Date.now() - (began ??= Date.now()), retryAt - Date.now()]);
            });
            tidings.watch("w-1", keep);
        })()"""
    )

    async def enough() -> bool:
        await tab.page.clock.run_for(5_000)
        return bool(await tab.run("waits.length > 20 && waits.at(-1)[0] > 60000"))

    await eventually(enough)
    waits = await tab.run("waits")
    assert all(0 <= wait <= min(20_000, max(500, lasted)) for lasted, wait in waits), waits
    assert any(wait > 500 for _, wait in waits)


async def test_a_watch_soon_after_the_last(tab: Tab, service: TidingsProcess) -> None:
    """A watch begun just after the last one was closed keeps the connection; 5 s after its own close that goes."""
    await tab.page.clock.install()
    await tab.open(service)
    await tab.run("window.first = tidings.watch('l-1', keep); first.synced")
    await tab.run("first.close(); window.second = tidings.watch('l-2', keep); second.synced")
    await tab.page.clock.run_for(6_000)
    await report(service, "l-2", "processing")
    await tab.gets("l-2 processing 1")
    assert await tab.run("states") == ["connecting", "open"]
    assert len(tab.sockets) == 1
    await tab.run("second.close()")
    await tab.page.clock.run_for(6_000)
    assert await tab.run("tidings.state") == "idle"


@pytest.mark.parametrize("another", [True, False])
async def test_the_last_watch_is_closed_while_it_waits(
    tab: Tab, service: TidingsProcess, another: bool
) -> None:
    """A watch that follows the last one during an outage has the connection back; where none does, none is opened."""
    opened: list[WebSocketRoute] = []

    def refuse_the_first(route: WebSocketRoute) -> Any:
        opened.append(route)
        return route.close(code=1011) if len(opened) == 1 else route.connect_to_server()

    await tab.page.clock.install()
    await tab.page.route_web_socket("**/api/ws", refuse_the_first)
    await tab.open(service)
    await tab.run(
        f"window.another = {json.dumps(another)};"
        """(async () => {
          const first = tidings.watch("l-3", keep);
          await new Promise((resolve) =>
            tidings.addEventListener("state", ({ detail }) => detail.state === "waiting" && resolve()));
          first.close();
          if (another) tidings.watch("l-4", keep);
        })()"""
    )
    await tab.page.clock.run_for(6_000)
    if another:
        await report(service, "l-4", "processing")
        await tab.gets("l-4 processing 1")
        assert await tab.run("tidings.state") == "open"
    else:
        assert await tab.run("states") == ["connecting", "waiting", "idle"]
    assert len(opened) == (2 if another else 1)


@pytest.mark.outage
async def test_event_streams_stand_in(
    tab: Tab, context: BrowserContext, own_service: TidingsProcess
) -> None:
    """Where WebSockets are blocked the same watches run over event streams, with restarts and deletions."""
    await context.add_init_script(BLOCKED)
    for name in ("s-1", "s-2", "s-3"):
        await report(own_service, name, "processing", owner="sofia")
    await tab.open(own_service)
    await tab.run(
        "Promise.all([tidings.watch({ owner: 'sofia' }, keep), tidings.watch('s-9', keep)].map((one) => one.synced))"
    )
    assert await tab.run("[tidings.state, tidings.transport]") == ["open", "sse"]
    assert sorted(await tab.run("got")) == [
        "s-1 processing 1",
        "s-2 processing 1",
        "s-3 processing 1",
    ]
    await report(own_service, "s-9", "processing")
    await tab.gets("s-9 processing 1")
    await tab.run("tidings.watch('s-8', keep).synced")
    await report(own_service, "s-8", "starting")
    await tab.gets("s-8 starting 1")
    await own_service.kill()
    await eventually(lambda: tab.run("tidings.state !== 'open'"))
    await own_service.start()
    await tab.run("fetch('/api/predictions/s-3', { method: 'DELETE' })")
    await report(own_service, "s-2", "succeeded")
    await eventually(
        lambda: tab.run(
            "got.includes('s-2 succeeded 2') && got.some((one) => one.startsWith('s-3 deleted'))"
        ),
        30,
    )
    assert len(await tab.run("got")) == 7


@pytest.mark.outage
async def test_the_websocket_comes_back(
    tab: Tab, context: BrowserContext, service: TidingsProcess
) -> None:
    """After five minutes of an event stream the WebSocket is tried again, and goes on where the stream was."""
    await context.add_init_script(BLOCKED)
    await tab.page.clock.install()
    await report(service, "b-1", "processing")
    await tab.open(service)
    await tab.run("tidings.watch('b-1', keep).synced")
    assert await tab.run("tidings.transport") == "sse"
    await tab.run("blocked = false")
    await tab.page.clock.fast_forward(301_000)
    await eventually(lambda: tab.run("tidings.transport === 'websocket'"), 20)
    await report(service, "b-1", "succeeded")
    await tab.gets("b-1 processing 1", "b-1 succeeded 2")
    assert tab.subscriptions() == [{"predictions": ["b-1"], "known": {"b-1": 1}}]


def mint(lifetime: float, **claims: Any) -> str:
    """A token that lives so many seconds."""
    return jwt.encode({"exp": time.time() + lifetime, **claims}, KEY, "HS256")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def secured(tmp_path_factory: pytest.TempPathFactory, service: TidingsProcess) -> Any:
    """A service that asks for tokens."""
    async with serving(
        tmp_path_factory.mktemp("secured"), {**SETTINGS, "TIDINGS_JWT_SECRET": KEY}
    ) as running:
        yield running


async def test_a_token_is_renewed(tab: Tab, secured: TidingsProcess) -> None:
    """A new token is asked for before the old one expires and shown on the open connection, which stays."""
    minted: list[float] = []

    def bring() -> str:
        minted.append(time.monotonic())
        return mint(6 if len(minted) < 2 else 600, sub="ada")

    await tab.page.expose_function("mint", bring)
    await tab.open(secured, mint=True)
    await tab.run("tidings.watch({ owner: 'ada' }, keep).synced")
    await eventually(
        lambda: len([message for message in tab.sent if message["type"] == "auth"]) == 2, 20
    )
    await report(secured, "t-1", "processing", owner="ada")
    await tab.gets("t-1 processing 1")
    assert len(tab.sockets) == 1
    assert len(minted) == 2


async def test_a_clock_that_is_wrong(tab: Tab, secured: TidingsProcess) -> None:
    """Where tokens seem to be over the moment they come, they are not asked for again and again; the service knows."""
    minted: list[str] = []

    def bring() -> str:
        minted.append(mint(600, sub="ada"))
        return minted[-1]

    await tab.page.expose_function("mint", bring)
    await tab.open(secured, mint=True)
    await tab.run(
        "const now = Date.now; Date.now = () => now() + 3_600_000; tidings.watch({ owner: 'ada' }, keep).synced"
    )
    for status in ("starting", "processing", "succeeded"):
        await report(secured, "t-3", status, owner="ada")
    await tab.gets("t-3 succeeded 3")
    assert len(minted) == len(tab.sockets) == 1


async def test_a_refused_token(tab: Tab, secured: TidingsProcess) -> None:
    """A refused token is replaced where another is to be had; else the watch fails and says why."""
    tokens = iter([mint(-60, sub="ada"), mint(600, sub="ada")])
    await tab.page.expose_function("mint", lambda: next(tokens))
    await tab.open(secured, mint=True)
    await tab.run("tidings.watch({ owner: 'ada' }).synced")
    assert await tab.run("tidings.state") == "open"
    assert (
        await tab.run("tidings.watch({ owner: 'grace' }).closed.catch((error) => error.code)")
        == "forbidden"
    )
    assert await tab.run("tidings.state") == "open"
    old = json.dumps(mint(-60, sub="ada"))
    script = f"new Tidings(location.origin, {{ token: {old} }}).finished('t-1').catch((error) => error.code)"
    assert await tab.run(script) == "unauthorized"


async def test_a_token_that_nobody_looks_at(tab: Tab, service: TidingsProcess) -> None:
    """Whoever brings a token to a service without authentication is told so, once."""
    warned: list[str] = []
    tab.page.on(
        "console", lambda said: warned.append(said.text) if said.type == "warning" else None
    )
    await tab.open(service, token="a token")
    await tab.run("tidings.watch('w-none').synced")
    (line,) = warned
    assert line.startswith(f"{service.url} has no authentication")


async def test_tokens_on_event_streams(tab: Tab, secured: TidingsProcess) -> None:
    """An event stream shows its token in a header, and comes back with a new one when the old one has expired."""
    minted: list[str] = []

    def bring() -> str:
        minted.append(mint(2 if len(minted) < 2 else 600, sub="ada"))
        return minted[-1]

    await tab.page.expose_function("mint", bring)
    addresses: list[str] = []
    tab.page.on("request", lambda request: addresses.append(request.url))
    await tab.open(secured, mint=True, transport="sse")
    await tab.run("tidings.watch({ owner: 'ada' }, keep).synced")
    await eventually(lambda: len(minted) == 3, 20)
    await report(secured, "t-2", "processing", owner="ada")
    await tab.gets("t-2 processing 1")
    assert not any(token in address for token in minted for address in addresses)


async def test_a_page_has_one_stream(tab: Tab, service: TidingsProcess) -> None:
    """However much a page watches without WebSockets, one connection carries it; each part is synced by itself."""
    streams: list[str] = []
    tab.page.on(
        "request",
        lambda request: streams.append(request.url) if "/api/events" in request.url else None,
    )
    await report(service, "s-799", "processing", owner="sue", tags=["blue"])
    await tab.open(service, transport="sse")
    await tab.run("""(() => {
      const watches = Array.from({ length: 800 }, (_, n) => tidings.watch(`s-${n}`, keep));
      watches.push(tidings.watch({ owner: "sue" }), tidings.watch({ tag: "blue" }));
      return Promise.all(watches.map((watch) => watch.synced));
    })()""")
    assert len(streams) == 1
    await tab.gets("s-799 processing 1")
    assert await tab.run("fetch('/healthz').then((answer) => answer.status)") == 200
    await report(service, "s-799", "succeeded")
    await tab.gets("s-799 processing 1", "s-799 succeeded 2")


async def test_a_hidden_page_pauses(tab: Tab, service: TidingsProcess) -> None:
    """A page that nobody sees lets the connection go, and gets the newest when it is seen again."""
    await report(service, "h-1", "processing")
    await tab.open(service, pauseAfter=50)
    await tab.run("tidings.watch('h-1', keep).synced")
    await tab.run(seen(False))
    await eventually(lambda: tab.run("tidings.state === 'paused'"))
    await eventually(lambda: tab.sockets[0].is_closed())
    await report(service, "h-1", "succeeded")
    assert await tab.run("got") == ["h-1 processing 1"]
    await tab.run(seen(True))
    await tab.gets("h-1 processing 1", "h-1 succeeded 2")


def seen(visible: bool) -> str:
    """Make the page believe that it is seen, or not."""
    hidden = json.dumps(not visible)
    return f"Object.defineProperty(document, 'hidden', {{ value: {hidden}, configurable: true }}), document.dispatchEvent(new Event('visibilitychange'))"


@pytest.mark.outage
async def test_a_frozen_service(tab: Tab, own_service: TidingsProcess) -> None:
    """A connection on which nothing is heard any more is given up, and what happened meanwhile is caught up with."""
    await report(own_service, "z-1", "processing")
    await tab.page.clock.install()
    await tab.open(own_service)
    await tab.run("tidings.watch('z-1', keep).synced")
    own_service.signal(Signals.SIGSTOP)
    await tab.page.clock.run_for(25_000)
    assert await tab.run("tidings.state") == "open"
    await tab.page.clock.run_for(16_000)
    assert await tab.run("states.includes('waiting')")
    own_service.signal(Signals.SIGCONT)
    await report(own_service, "z-1", "succeeded")
    await tab.gets("z-1 processing 1", "z-1 succeeded 2")


# Texts

READ = """async (id) => {
  window.pieces = [];
  const text = tidings.text(id);
  try {
    for await (const piece of text) pieces.push(text.replaced ? `!${piece}` : piece);
    pieces.push("END");
  } catch (error) {
    pieces.push(`${error.code}: ${error.message}`);
  }
}"""


async def stream(
    service: TidingsProcess, name: str, text: str, method: str = "POST", **headers: str
) -> None:
    """Write to a text."""
    url = f"{service.url}/api/predictions/{name}/text"
    sent = {"Content-Type": "text/plain", "Authorization": f"Bearer {KEY}", **headers}
    async with httpx.AsyncClient() as client:
        answer = await client.request(method, url, headers=sent, content=text)
        assert answer.is_success, answer.text


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_text_comes_piece_by_piece(
    tab: Tab, service: TidingsProcess, transport: str
) -> None:
    """`text` hands out what is there and then each piece once, and `watch` the record with all of it."""
    name = f"text-{transport}"
    await stream(service, name, "Ça ", "PUT")
    await tab.open(service, transport=transport)
    await tab.page.evaluate("window.whole = []; void 0")
    await tab.page.evaluate(f"tidings.watch('{name}', ({{ text }}) => whole.push(text)).synced")
    await tab.page.evaluate(
        f"(window.reading = ({READ})('{name}'), tidings.watch('{name}').synced)"
    )
    pieces = ["marche", " très", " bien", " 🎉", "!"]
    for piece in pieces:
        await stream(service, name, piece)
    await stream(service, name, "", **{"Stream-Closed": "true"})
    await tab.page.evaluate("reading")
    got = await tab.page.evaluate("pieces")
    assert got[-1] == "END"
    assert "".join(got[:-1]) == "Ça " + "".join(pieces)
    assert (await tab.page.evaluate("whole"))[-1] == "Ça marche très bien 🎉!"


@pytest.mark.outage
async def test_a_text_goes_on_after_a_restart(tab: Tab, own_service: TidingsProcess) -> None:
    """A reader that comes back goes on where it was; a text that was replaced is said to be."""
    await stream(own_service, "text-again", "one", "PUT")
    await tab.open(own_service)
    await tab.page.evaluate(
        f"(window.reading = ({READ})('text-again'), tidings.watch('text-again').synced)"
    )
    await stream(own_service, "text-again", " two")
    await eventually(lambda: tab.page.evaluate("pieces.join('') === 'one two'"))
    await own_service.kill()
    await own_service.start()
    await stream(own_service, "text-again", " three")
    await eventually(lambda: tab.page.evaluate("pieces.join('') === 'one two three'"), 30)
    async with httpx.AsyncClient() as client:
        told = {"status": "failed", "text": "other", "error": "no"}
        await client.patch(f"{own_service.url}/api/predictions/text-again", json=told)
    await tab.page.evaluate("reading")
    assert (await tab.page.evaluate("pieces"))[-2:] == ["!other", "failed: no"]


async def test_a_page_writes_a_text(tab: Tab, service: TidingsProcess) -> None:
    """`pipe` writes what a source yields, halves of characters together, and closes; a failure fails the prediction."""
    await stream(service, "text-written", "", "PUT")
    await stream(service, "text-failed", "", "PUT")
    await tab.open(service)
    await tab.run(
        """(async () => {
      const words = async function* () {
        yield { choices: [{ delta: { content: "Hi " } }] };
        yield { choices: [] };
        yield "\\ud83c";
        yield "\\udf89";
        yield new TextEncoder().encode(" there");
      };
      tidings.close();
      const writing = new Tidings(location.origin, { token: "KEY" });
      await writing.pipe("text-written", words());
      const failing = async function* () { yield "so far"; throw new Error("no more"); };
      await writing.pipe("text-failed", failing()).catch(() => {});
    })()""".replace("\\\\u", "\\u").replace("KEY", KEY)
    )
    await tab.open(service)
    done = await tab.run("tidings.finished('text-written')")
    assert (done["text"], done["status"]) == ("Hi 🎉 there", "succeeded")
    failed = await tab.run("tidings.finished('text-failed')")
    assert (failed["text"], failed["error"]) == ("so far", "no more")
