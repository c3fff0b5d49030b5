"""The lane for reads and webhooks of a mounted gateway: the same answers, without a request of aiohttp's."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from tests.support.storage.samples import creation
from tests.support.webhooks import SECRET, signed
from tidings.gateway.api.health import Health
from tidings.gateway.api.sse import EventStreams
from tidings.gateway.app import Parts, build_app, connect
from tidings.gateway.asgi import fast_lane
from tidings.gateway.asgi.application import AsgiGateway
from tidings.gateway.asgi.fast_lane import FAST_LANE
from tidings.gateway.asgi.request import ReceivedBody, at_once
from tidings.gateway.asgi.scope import Message
from tidings.gateway.auth.request_guard import RequestGuard
from tidings.gateway.http.held_bytes import HeldBytes
from tidings.gateway.http.server import HttpServer
from tidings.gateway.push.changes_reader import ChangesReader
from tidings.gateway.push.hub import Hub
from tidings.storage.memory import MemoryStore
from tidings.storage.wrappers.cache import CachedStore
from tidings.streams.log.memory import MemoryLog
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers

BODY = b'{"predictionId": "p1", "status": "processing"}'


class Call:
    """One request and what is answered."""

    def __init__(
        self,
        method: str,
        path: str,
        headers: dict[str, str] | None = None,
        body: bytes = b"",
        *,
        pieces: int = 1,
    ) -> None:
        address, _, query = path.partition("?")
        named = {"host": "127.0.0.1", **(headers or {})}
        if method == "POST":
            named["content-length"] = str(len(body))
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": method,
            "path": address.replace("%70", "p"),
            "raw_path": address.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "client": ("127.0.0.1", 1),
            "headers": [(name.lower().encode(), value.encode()) for name, value in named.items()],
        }
        size = max(1, -(-len(body) // pieces))
        self._pieces = [body[start : start + size] for start in range(0, len(body), size)] or [b""]
        self.answered: list[Message] = []

    async def receive(self) -> Message:
        """The next piece of the body."""
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}

    async def send(self, message: Message) -> None:
        """Take a piece of the answer."""
        self.answered.append(message)

    @property
    def seen(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """Status, headers and body."""
        start, *rest = self.answered
        headers = dict(start["headers"])
        headers.pop(b"content-type", None)  # `web.Response` may add a charset
        return start["status"], headers, b"".join(one.get("body", b"") for one in rest)


@asynccontextmanager
async def gateways() -> AsyncIterator[tuple[AsgiGateway, AsgiGateway]]:
    """One gateway with its lane, and one without, on the same log and store."""
    store, log, guard = CachedStore(MemoryStore()), MemoryLog(), RequestGuard()
    await store.write([creation("p1"), creation("large", logs="x" * 100_000)])
    hub = Hub()

    async def nowhere(request: web.Request) -> web.StreamResponse:
        raise web.HTTPNotFound

    endpoints = connect(
        guard,
        Parts(
            log=log,
            store=store,
            reader=ChangesReader(log, hub, store),
            health=Health(guard, registry=CollectorRegistry()),
            event_streams=EventStreams(guard, store, hub, HeldBytes()),
            websocket=nowhere,
            providers=open_providers({"standard": Configuration(secret=(SECRET,))}),
            held=HeldBytes(),
            webhook_key=b"a key of some length",
        ),
    )
    app, slow_app = build_app(endpoints, guard), build_app(endpoints, guard)
    del slow_app[FAST_LANE]
    servers = [HttpServer(app), HttpServer(slow_app)]
    for server in servers:
        await server.start()
    quick, slow = (AsgiGateway(server, cast("Any", None), guard) for server in servers)
    yield quick, slow
    for server in servers:
        await server.close()


def webhook(path: str = "/api/webhooks/standard", **more: Any) -> Call:
    return Call("POST", path, dict(signed(BODY)), BODY, **more)


async def test_no_request_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ordinary read and an ordinary webhook are answered without aiohttp's request."""

    def made(*_: object) -> web.Request:
        raise AssertionError("a request of aiohttp's")

    monkeypatch.setattr(fast_lane, "made", made)
    async with gateways() as (gateway, _):
        for call in (Call("GET", "/api/predictions/p1"), webhook()):
            await gateway(call.scope, call.receive, call.send)
            assert call.seen[0] == 200
            assert call.answered[-1]["more_body"] is False


CALLS: dict[str, Callable[[], Call]] = {
    "read": lambda: Call("GET", "/api/predictions/p1"),
    "head": lambda: Call("HEAD", "/api/predictions/p1"),
    "unknown": lambda: Call("GET", "/api/predictions/nobody"),
    "known": lambda: Call("GET", "/api/predictions/p1", {"If-None-Match": '"1"'}),
    "fields": lambda: Call("GET", "/api/predictions/p1?fields=status"),
    "encoded": lambda: Call("GET", "/api/predictions/%701"),
    "encoded slash": lambda: Call("GET", "/api%2Fpredictions/p1"),
    "large": lambda: Call("GET", "/api/predictions/large"),
    "foreign host": lambda: Call("GET", "/api/predictions/p1", {"host": "evil.example"}),
    "foreign page": lambda: Call("GET", "/api/predictions/p1", {"Origin": "https://evil.example"}),
    "own page": lambda: Call("GET", "/api/predictions/p1", {"Origin": "http://127.0.0.1"}),
    "slash": lambda: Call("GET", "/api/predictions/p1/"),
    "webhook": webhook,
    "in pieces": lambda: webhook(pieces=3),
    "unproven": lambda: Call("POST", "/api/webhooks/standard", {}, BODY),
    "unproven in pieces": lambda: Call("POST", "/api/webhooks/standard", {}, BODY, pieces=4),
    "unknown provider": lambda: webhook("/api/webhooks/nobody"),
    "bad token": lambda: webhook("/api/webhooks/standard/p1?token=x"),
    "strange encoding": lambda: Call(
        "POST", "/api/webhooks/standard", {"Content-Encoding": "br"}, BODY
    ),
    "get a webhook": lambda: Call("GET", "/api/webhooks/standard"),
    "post a read": lambda: Call("POST", "/api/predictions/p1", {}, b"{}"),
}


@pytest.mark.parametrize("name", CALLS)
async def test_same_answers(name: str) -> None:
    """Whatever comes, status, headers and body are those of the whole way."""
    async with gateways() as (quick, slow):
        ours, theirs = CALLS[name](), CALLS[name]()
        await quick(ours.scope, ours.receive, ours.send)
        await slow(theirs.scope, theirs.receive, theirs.send)
        assert ours.seen == theirs.seen


async def test_a_repeated_header_goes_the_whole_way() -> None:
    """Of a header that comes twice the whole way knows what counts."""
    call = Call("GET", "/api/predictions/p1")
    call.scope["headers"].append((b"host", b"evil.example"))
    async with gateways() as (gateway, _):
        await gateway(call.scope, call.receive, call.send)
    assert call.seen[0] == 200  # the first counts, as for the server itself


async def test_a_body_that_is_late() -> None:
    """A coroutine that waits is awaited on, canceled and failed as one that was not begun."""
    event = asyncio.Event()

    async def late() -> Message:
        await asyncio.sleep(0)
        await event.wait()
        return {"type": "http.request", "body": b"late"}

    begun = at_once(late())
    assert not isinstance(begun, dict)
    asyncio.get_running_loop().call_soon(event.set)
    assert (await cast("Any", begun))["body"] == b"late"

    event.clear()
    waiting = asyncio.ensure_future(cast("Any", at_once(late())))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    async def failing() -> Message:
        await asyncio.sleep(0)
        raise OSError("cut")

    with pytest.raises(OSError, match="cut"):
        await cast("Any", at_once(failing()))


async def test_a_body_that_does_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends headers alone is waited for as long as a first piece may take, and no longer here."""
    monkeypatch.setattr("tidings.gateway.asgi.request.FIRST_PIECE", 0.01)
    body = ReceivedBody(asyncio.Event().wait)  # type: ignore[arg-type]
    before = time.monotonic()
    await body.receive_first()
    assert time.monotonic() - before < 5
    assert not body.is_eof()
