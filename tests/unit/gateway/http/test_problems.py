"""Every error over HTTP: provoked, of one shape, and described in the paper."""

import ast
import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPStatus
from typing import Any

import httpx
import jwt
import pytest

from tests.support import webhooks
from tests.support.gateway.doors import door
from tests.support.gateway.small_service import SmallService, prediction, small_service
from tests.support.root import ROOT
from tidings.gateway.api import sse
from tidings.gateway.auth.rate_limits import AddressLimits, TrustedProxies
from tidings.gateway.auth.tokens import Hs256Tokens, RequiredClaims, TokenAuthenticator
from tidings.gateway.http import request_body
from tidings.gateway.http.held_bytes import HeldBytes, HeldLimits
from tidings.storage.errors import IndexBehind, StoreUnavailable
from tidings.storage.prediction import Prediction
from tidings.storage.usage import TooManyGroups
from tidings.streams.providers.configuration import Configuration
from tidings.streams.providers.registry import open_providers

pytestmark = pytest.mark.doors

SECRET = b"a secret of more than thirty-two bytes"
FORWARDED = {"X-Forwarded-For": "203.0.113.7"}
ORDER = {"provider": "replicate", "model": "m", "predictionId": "p1"}

Client = httpx.AsyncClient
Provoke = Callable[[SmallService, Client], Awaitable[httpx.Response]]
PROVOKED: dict[tuple[str, int], tuple[dict[str, Any], Provoke]] = {}


class Taker:
    """Stands for what submits; takes every order for one provider."""

    def refusal(self, provider: str) -> str | None:
        return None if provider == "replicate" else f"Set TIDINGS_{provider.upper()}_TOKEN."

    def model_refusal(self, provider: str, model: str) -> str | None:
        return None

    def stream_refusal(self, provider: str) -> str | None:
        return None

    async def submit(self, record: Prediction) -> None:
        """Take it."""


def provokes(code: str, status: int, **settings: Any) -> Callable[[Provoke], Provoke]:
    """Register what leads to this problem, on a gateway with these settings."""

    def add(provoke: Provoke) -> Provoke:
        PROVOKED[code, status] = (settings, provoke)
        return provoke

    return add


async def raw(service: SmallService, *pieces: bytes) -> httpx.Response:
    """The answer to bytes on a connection of their own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", service.port)
    with contextlib.suppress(ConnectionError):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
    head, _, body = (await asyncio.wait_for(reader.read(), 30)).partition(b"\r\n\r\n")
    writer.close()
    first, *lines = head.decode().split("\r\n")
    headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
    return httpx.Response(int(first.split()[1]), headers=headers, content=body)


@provokes("bad-request", 400)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/predictions?limit=0")


@provokes("cannot-sum", 400)
async def _(service: SmallService, client: Client) -> httpx.Response:
    async def cannot(*_: object) -> None:
        return None

    service.store.store.usage = cannot  # type: ignore[method-assign, assignment]
    return await client.get("/api/usage")


@provokes("too-many-sums", 400)
async def _(service: SmallService, client: Client) -> httpx.Response:
    async def too_many(*_: object) -> None:
        raise TooManyGroups

    service.store.store.usage = too_many  # type: ignore[method-assign, assignment]
    return await client.get("/api/usage?groupBy=owner,day")


@provokes("bad-handshake", 426)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/ws")


@provokes("bad-handshake", 400)
async def _(service: SmallService, client: Client) -> httpx.Response:
    head = (
        b"GET /api/ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    )
    return await raw(
        service, head + b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n\r\n"
    )


@provokes("missing-token", 401, authenticator=Hs256Tokens(SECRET, RequiredClaims()))
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/predictions/p1")


@provokes("token-refused", 401, authenticator=Hs256Tokens(SECRET, RequiredClaims()))
async def _(service: SmallService, client: Client) -> httpx.Response:
    old = jwt.encode({"sub": "ann", "exp": time.time() - 60}, SECRET, algorithm="HS256")
    return await client.get("/api/predictions/p1", headers={"Authorization": f"Bearer {old}"})


@provokes(
    "token-without-rights",
    403,
    authenticator=TokenAuthenticator([Hs256Tokens(SECRET, RequiredClaims())]),
)
async def _(service: SmallService, client: Client) -> httpx.Response:
    bare = jwt.encode({"scope": "openid", "exp": time.time() + 60}, SECRET, algorithm="HS256")
    return await client.get("/api/predictions", headers={"Authorization": f"Bearer {bare}"})


@provokes(
    "bad-signature",
    401,
    providers=open_providers({"standard": Configuration(secret=(webhooks.SECRET,))}),
)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.post("/api/webhooks/standard", content=b"{}")


@provokes(
    "bad-token",
    401,
    providers=open_providers({"standard": Configuration(secret=(webhooks.SECRET,))}),
    webhook_key=b"k" * 32,
)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.post("/api/webhooks/standard/p1?token=guessed", content=b"{}")


@provokes("forbidden", 403, authenticator=Hs256Tokens(SECRET, RequiredClaims()))
async def _(service: SmallService, client: Client) -> httpx.Response:
    mine = jwt.encode({"sub": "ann", "exp": time.time() + 60}, SECRET, algorithm="HS256")
    return await client.get("/api/stats", headers={"Authorization": f"Bearer {mine}"})


@provokes("foreign-host", 403)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/predictions/p1", headers={"Host": "evil.example"})


@provokes("foreign-origin", 403)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/predictions/p1", headers={"Origin": "https://evil.example"})


@provokes("not-found", 404)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/predictions/nobody")


@provokes("no-route", 404)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/nowhere")


@provokes("unknown-provider", 404)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.post("/api/webhooks/nobody", content=b"{}")


@provokes("method-not-allowed", 405)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.put("/api/predictions/p1")


@provokes("timeout", 408)
async def _(service: SmallService, client: Client) -> httpx.Response:
    limits = service.sessions.limits
    service.sessions.limits = type(limits)(head=0.2, heartbeat=limits.heartbeat)
    return await raw(service, b"GET /api/predictions/p1 HTTP/1.1\r\nHost: loc")


@provokes("body-timeout", 408)
async def _(service: SmallService, client: Client) -> httpx.Response:
    head = b"PATCH /api/predictions/p1 HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return await raw(service, head + b"Content-Length: 10\r\n\r\n{")


@provokes("head-too-large", 400)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/predictions/p1", headers={"X-Long": "x" * 20_000})


LARGE: dict[str, Any] = {
    "headers": {"content-type": "application/json"},
    "content": b'{"tags":["%b"]}' % (b"x" * 300_000),
}


@provokes("too-much-held", 429, held=HeldBytes(HeldLimits(connection=100_000)))
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.patch("/api/predictions/p1", **LARGE)


@provokes("busy", 503, held=HeldBytes(HeldLimits(process=100_000)))
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.patch("/api/predictions/p1", **LARGE)


@provokes("exists", 409, submitter=Taker())
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1"))
    return await client.post("/api/predictions", json=ORDER)


@provokes("invalid-transition", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1", status="succeeded"))
    return await client.patch("/api/predictions/p1", json={"status": "failed"})


@provokes("conflict", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1", owner="ann"))
    return await client.patch("/api/predictions/p1", json={"owner": "bob"})


ASKED = {"waiting": True, "question": "Go on?"}


@provokes("not-waiting", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1"))
    return await client.post("/api/predictions/p1/answer", json={"answer": "yes"})


@provokes("other-question", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1"))
    await client.patch("/api/predictions/p1", json=ASKED)
    said = {"answer": "yes", "questionNumber": 2}
    return await client.post("/api/predictions/p1/answer", json=said)


@provokes("answered", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1"))
    await client.patch("/api/predictions/p1", json=ASKED)
    await client.post("/api/predictions/p1/answer", json={"answer": "yes"})
    return await client.post("/api/predictions/p1/answer", json={"answer": "no"})


@provokes("webhooks-not-configured", 422, submitter=Taker())
async def _(service: SmallService, client: Client) -> httpx.Response:
    order = {**ORDER, "webhook": "https://example.com/hook"}
    return await client.post("/api/predictions", json=order)


PLAIN = {"Content-Type": "text/plain"}


async def _ended(service: SmallService) -> None:
    writers = [{"id": "w", "epoch": 1, "seq": 0}]
    text = {"text": "abc", "textLength": 3, "textEpoch": 2, "textProducers": writers}
    await service.put(prediction("p1", status="succeeded", **text))


@provokes("text-closed", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await _ended(service)
    return await client.post("/api/predictions/p1/text", content="d", headers=PLAIN)


@provokes("content-type", 409)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1", text="abc", textLength=3))
    headers = {"Content-Type": "application/json"}
    return await client.post("/api/predictions/p1/text", content="1", headers=headers)


@provokes("producer-fenced", 403)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await _ended(service)
    older = {**PLAIN, "Producer-Id": "w", "Producer-Epoch": "0", "Producer-Seq": "1"}
    return await client.post("/api/predictions/p1/text", content="d", headers=older)


@provokes("replaced", 410)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await _ended(service)
    place = f"{1:010}_{1:016}"
    return await client.get("/api/predictions/p1/text", params={"offset": place})


@provokes("too-large", 413, max_body=100)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.patch("/api/predictions/p1", json={"logs": "x" * 200})


@provokes("not-json", 415)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.patch(
        "/api/predictions/p1", content="{}", headers={"Content-Type": "text/plain"}
    )


@provokes("encoded", 415)
async def _(service: SmallService, client: Client) -> httpx.Response:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    return await client.patch("/api/predictions/p1", content=b"{}", headers=headers)


@provokes("invalid-content", 422)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await service.put(prediction("p1"))
    return await client.patch("/api/predictions/p1", json={"progress": "half"})


@provokes("provider-not-configured", 422, submitter=Taker())
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.post("/api/predictions", json={**ORDER, "provider": "fal"})


@provokes(
    "too-many-requests",
    429,
    limits=AddressLimits(rate=0.1, burst=1),
    trusted_proxies=TrustedProxies(["127.0.0.1"]),
)
async def _(service: SmallService, client: Client) -> httpx.Response:
    await client.get("/api/predictions/p1", headers=FORWARDED)
    return await client.get("/api/predictions/p1", headers=FORWARDED)


@provokes("too-many-streams", 429, per_address=0, trusted_proxies=TrustedProxies(["127.0.0.1"]))
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/events?all=true", headers=FORWARDED)


@provokes("too-many-streams", 503)
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/api/events?all=true")


@provokes("internal", 500)
async def _(service: SmallService, client: Client) -> httpx.Response:
    async def broken(*_: object) -> None:
        raise ZeroDivisionError("a detail that is nobody's business")

    service.store.store.get = broken  # type: ignore[method-assign, assignment]
    return await client.get("/api/predictions/p1")


@provokes("index-behind", 503)
async def _(service: SmallService, client: Client) -> httpx.Response:
    async def behind(*_: object) -> None:
        raise IndexBehind(5000)

    service.store.store.usage = behind  # type: ignore[method-assign, assignment]
    return await client.get("/api/usage")


@provokes("unavailable", 503)
async def _(service: SmallService, client: Client) -> httpx.Response:
    async def away(*_: object) -> None:
        raise StoreUnavailable("postgresql://ann:secret@db is away")

    service.store.store.get = away  # type: ignore[method-assign, assignment]
    return await client.get("/api/predictions/p1")


async def _not_ready() -> str | None:
    return "not yet"


@provokes("not-ready", 503, ready={"part": _not_ready})
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/readyz")


@provokes("stuck", 503, alive=lambda: "a part stands still")
async def _(service: SmallService, client: Client) -> httpx.Response:
    return await client.get("/healthz")


@contextlib.asynccontextmanager
async def serving(settings: dict[str, Any]) -> AsyncIterator[tuple[SmallService, Client]]:
    async with (
        small_service(**settings) as service,
        Client(base_url=service.url, timeout=30) as client,
    ):
        yield service, client


BYTES = {("bad-handshake", 400), ("head-too-large", 400), ("timeout", 408)}
"""Problems of bytes and not of requests."""


@pytest.mark.parametrize(("code", "status"), PROVOKED, ids=lambda value: str(value))
async def test_every_problem_has_its_status_and_its_shape(
    code: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each error is a problem of its code and status, with a remedy, and without what is nobody's business."""
    if door.get() == "asgi" and (code, status) in BYTES:
        pytest.skip("the host's server answers to bytes that are no request")
    monkeypatch.setattr(request_body, "BODY_TIME", 0.3)
    if (code, status) == ("too-many-streams", 503):
        monkeypatch.setattr(sse, "MAX_STREAMS", 0)
    settings, provoke = PROVOKED[code, status]
    async with serving(settings) as (service, client):
        answer = await provoke(service, client)
    body = answer.json()
    assert (answer.status_code, body["code"], body["status"]) == (status, code, status), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["type"] == f"urn:tidings:problem:{code}"
    assert body["title"] == HTTPStatus(status).phrase
    assert body["detail"]
    assert body["error"]
    assert "nobody's business" not in answer.text
    assert "ann:secret" not in answer.text
    assert ("Retry-After" in answer.headers) == (status in {429, 503} and code != "stuck")
    assert json.loads(answer.content) == body


def written() -> set[str]:
    """The codes of problems in the gateway's own text."""
    found = set()
    for file in (ROOT / "gateway").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
                continue
            place = {"Problem": 1, "_unauthorized": 0}.get(node.func.id)
            if place is not None and isinstance(code := node.args[place], ast.Constant):
                found.add(str(code.value))
    return found


def test_every_problem_is_described_and_provoked() -> None:
    """The paper on errors names every code of the gateway with its statuses, and no other; so do the tests."""
    paper = (ROOT / "docs" / "reference" / "errors.md").read_text(encoding="utf-8")
    described = {
        code: statuses
        for statuses, code in re.findall(r"^\| ([\d, ]+) \| `([a-z-]+)` \|", paper, re.MULTILINE)
    }
    assert set(described) == written()
    assert {code for code, _ in PROVOKED} == written()
    for code, status in PROVOKED:
        assert str(status) in described[code].split(", "), code
